//! Reads from Linux what `coracle doctor` needs to know about this host.

use std::fs;
use std::path::Path;
use std::thread;

/// This host. A field whose value could not be read is empty or 0.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// The processor's name.
    pub processor: String,
    /// Whether the processor has the hardware virtualization of Intel (vmx) or of AMD (svm).
    pub vmx: bool,
    pub svm: bool,
    /// Whether a hypervisor or an emulator runs below this host's kernel.
    pub is_virtual: bool,
    pub is_container: bool,
    /// The loaded modules of KVM, such as `kvm_amd`, without the common one.
    pub modules: Vec<String>,
    /// The word that is in brackets in /sys/kernel/mm/transparent_hugepage/enabled.
    pub huge_pages: Option<String>,
    pub cpus: usize,
    pub memory_mib: u64,
    pub available_mib: u64,
}

impl Host {
    pub fn read() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let meminfo = read("/proc/meminfo");
        Self {
            processor: field(&cpuinfo, "model name").unwrap_or_default().to_owned(),
            vmx: has_flag(&cpuinfo, "vmx"),
            svm: has_flag(&cpuinfo, "svm"),
            is_virtual: has_flag(&cpuinfo, "hypervisor") || is_emulator(&firmware()),
            is_container: ["/.dockerenv", "/run/.containerenv"]
                .iter()
                .any(|path| Path::new(path).exists()),
            modules: kvm_modules(),
            huge_pages: chosen(&read("/sys/kernel/mm/transparent_hugepage/enabled")),
            cpus: thread::available_parallelism().map_or(0, |cpus| cpus.get()),
            memory_mib: mebibytes(&meminfo, "MemTotal"),
            available_mib: mebibytes(&meminfo, "MemAvailable"),
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The value of the first line `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then_some(value.trim())
    })
}

fn has_flag(cpuinfo: &str, flag: &str) -> bool {
    field(cpuinfo, "flags").is_some_and(|flags| flags.split_whitespace().any(|word| word == flag))
}

/// What the firmware says of itself and of its machine.
fn firmware() -> String {
    ["sys_vendor", "bios_vendor", "bios_version"]
        .map(|name| read(&format!("/sys/class/dmi/id/{name}")))
        .concat()
}

/// Whether this firmware is an emulator's. An emulator can show a processor without the flag `hypervisor`, as a real one.
fn is_emulator(firmware: &str) -> bool {
    ["Bochs", "QEMU"].iter().any(|name| firmware.contains(name))
}

/// The word in brackets: `always [madvise] never`.
fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(word, _)| word.to_owned())
}

fn mebibytes(meminfo: &str, name: &str) -> u64 {
    let kibibytes =
        field(meminfo, name).and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or_default() / 1024
}

fn kvm_modules() -> Vec<String> {
    let entries = fs::read_dir("/sys/module").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut modules: Vec<String> = names.filter(|name| name.starts_with("kvm_")).collect();
    modules.sort();
    modules
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPUINFO: &str =
        "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu svm hypervisor\n\nprocessor\t: 1\n";

    #[test]
    fn flags_are_whole_words() {
        assert!(has_flag(CPUINFO, "svm"));
        assert!(!has_flag(CPUINFO, "vm") && !has_flag(CPUINFO, "vmx"));
    }

    #[test]
    fn the_firmware_of_an_emulator_names_it() {
        assert!(is_emulator("\nThe Bochs Project\nBochs 2.7\n"));
        assert!(is_emulator("QEMU\nSeaBIOS\n1.16.2-debian-1.16.2-1\n"));
        assert!(!is_emulator("Dell Inc.\nDell Inc.\n2.12.0\n"));
        assert!(!is_emulator(""));
    }

    #[test]
    fn the_chosen_huge_page_setting_is_the_one_in_brackets() {
        assert_eq!(chosen("always [madvise] never\n").as_deref(), Some("madvise"));
        assert_eq!(chosen(""), None);
        assert_eq!(chosen("always [madvise"), None);
    }

    #[test]
    fn memory_is_told_in_mebibytes() {
        assert_eq!(
            mebibytes("MemTotal:       2048000 kB\nMemAvailable: x kB\n", "MemTotal"),
            2000
        );
        assert_eq!(mebibytes("MemAvailable: x kB\n", "MemAvailable"), 0);
    }
}
