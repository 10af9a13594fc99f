//! What a guest learns of its processors: their topology, features and clocks. Processors by Intel and by AMD tell it in
//! different leaves of CPUID, so these trials run on both.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};

use serde_json::Value;

use crate::images::{scratch, sparse};
use crate::machines::{self, Machine};
use crate::place;
use crate::run::{Coracle, Finished};

crate::group!["processors":
    eight_vcpus_are_cores_of_one_package_by_every_leaf_and_in_linux,
    four_vcpus_are_cores_of_one_package_by_every_leaf_and_in_linux,
    two_vcpus_are_cores_of_one_package_by_every_leaf_and_in_linux,
    a_single_vcpu_is_alone_by_every_leaf_and_in_linux,
    programs_find_xsave_as_cpuid_says_and_do_without_it_where_it_is_absent,
    linux_finds_x2apic_tsc_deadline_and_kvms_clock,
    linux_touches_no_register_that_is_not_there,
    a_guest_has_its_hosts_vendor_and_model_and_no_feature_that_kvm_does_not_add,
    a_disk_is_notified_without_an_exit_to_coracle,
];

/// EAX, EBX, ECX and EDX of each leaf and subleaf.
type Leaves = BTreeMap<(u32, u32), [u32; 4]>;

/// What a shell prints in a guest. A byte through a socket costs far less than one on the console.
fn says(options: &[&str], script: &str) -> Finished {
    let finished = Coracle::run()
        .args(options)
        .args(["--", "sh", "-c", script])
        // The program that tells of processors, for those scripts that want it.
        .stdin(File::open(place::processor()).unwrap())
        .end();
    finished.assert_powered_off();
    finished
}

/// Begins a script, in which it makes the command `/processor`.
const PROCESSOR: &str = "cat >/processor; chmod 755 /processor";

/// What `/processor` prints in a guest: the leaves of each vCPU.
fn leaves(finished: &Finished) -> Vec<Leaves> {
    let mut cpus: Vec<Leaves> = Vec::new();
    for line in finished.console().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let ["cpu", cpu, "leaf", numbers @ ..] = &words[..] else {
            continue;
        };
        let number =
            |text: &str| u32::from_str_radix(text, 16).unwrap_or_else(|why| panic!("{line:?}: {why}"));
        let numbers: Vec<u32> = numbers.iter().map(|text| number(text)).collect();
        let [leaf, subleaf, eax, ebx, ecx, edx] = numbers[..] else {
            panic!("{line:?}");
        };
        if cpus.len() <= number(cpu) as usize {
            cpus.push(Leaves::new());
        }
        cpus[number(cpu) as usize].insert((leaf, subleaf), [eax, ebx, ecx, edx]);
    }
    cpus
}

fn eight_vcpus_are_cores_of_one_package_by_every_leaf_and_in_linux() {
    topology(8);
}

fn four_vcpus_are_cores_of_one_package_by_every_leaf_and_in_linux() {
    topology(4);
}

fn two_vcpus_are_cores_of_one_package_by_every_leaf_and_in_linux() {
    topology(2);
}

fn a_single_vcpu_is_alone_by_every_leaf_and_in_linux() {
    topology(1);
}

fn topology(count: u32) {
    let finished = says(
        &["--cpus", &count.to_string()],
        &format!(
            "{PROCESSOR}; /processor; echo count $(nproc); cd /sys/devices/system/cpu; echo online $(cat online); \
             for cpu in cpu[0-9]*; do cd $cpu/topology; \
             echo $cpu: package $(cat physical_package_id), core $(cat core_id), threads $(cat thread_siblings_list), \
             package of $(cat core_siblings_list).; cd ../..; done"
        ),
    );
    let all = if count > 1 {
        format!("0-{}", count - 1)
    } else {
        "0".into()
    };
    finished
        .assert_prints(&format!("count {count}\n"))
        .assert_prints(&format!("online {all}\n"));
    // `/processor` has run on each of them.
    let cpus = leaves(&finished);
    assert_eq!(cpus.len(), count as usize, "{finished}");
    for (cpu, leaves) in (0..).zip(&cpus) {
        assert_topology(cpu, count, leaves);
        finished.assert_prints(&format!(
            "\ncpu{cpu}: package 0, core {cpu}, threads {cpu}, package of {all}.\n"
        ));
    }
}

fn assert_topology(cpu: u32, count: u32, leaves: &Leaves) {
    let of = |leaf, subleaf| leaves.get(&(leaf, subleaf)).copied();
    let shown = format!("vCPU {cpu} of {count}: {leaves:x?}");
    let bits = count.next_power_of_two().trailing_zeros();

    let [_, features_ebx, _, features_edx] = of(1, 0).unwrap();
    assert_eq!(features_ebx >> 24, cpu, "initial APIC ID, {shown}");
    assert_eq!(features_ebx >> 16 & 0xff, count, "logical processors, {shown}");
    assert_eq!(features_edx >> 28 & 1 == 1, count > 1, "HTT, {shown}");

    assert!(of(0xb, 0).is_some(), "a topology leaf, {shown}");
    for leaf in [0xb, 0x1f] {
        if of(leaf, 0).is_some() {
            assert_eq!(
                of(leaf, 0),
                Some([0, 1, 0x100, cpu]),
                "threads, leaf {leaf:#x}, {shown}"
            );
            assert_eq!(
                of(leaf, 1),
                Some([bits, count, 0x201, cpu]),
                "cores, leaf {leaf:#x}, {shown}"
            );
        }
    }

    let vendor = of(0, 0).unwrap();
    let is_amd = match vendor[1].to_le_bytes() {
        [b'A', b'u', b't', b'h'] => true,
        [b'G', b'e', b'n', b'u'] => false,
        other => panic!("neither Intel nor AMD: {other:?}"),
    };
    let [_, _, cores, _] = of(0x8000_0008, 0).unwrap();
    if is_amd {
        assert_eq!(
            cores & 0xf0ff,
            bits << 12 | (count - 1),
            "cores less one, {shown}"
        );
        if let Some([id, core, node, _]) = of(0x8000_001e, 0) {
            assert_eq!((id, core, node), (cpu, cpu, 0), "leaf 0x8000001e, {shown}");
        }
    } else {
        assert_eq!(cores, 0, "reserved by Intel, {shown}");
        let foreign = [0x8000_001d, 0x8000_001e].map(|leaf| of(leaf, 0).unwrap_or_default());
        assert_eq!(foreign, [[0; 4]; 2], "leaves of AMD, {shown}");
    }
    assert_caches(if is_amd { 0x8000_001d } else { 0x4 }, !is_amd, count, leaves);
}

/// The third level is shared by all, the others by none (Intel SDM volume 2, CPUID leaf 4; AMD APM volume 3, E.4.15).
fn assert_caches(leaf: u32, names_cores: bool, count: u32, leaves: &Leaves) {
    for ((_, subleaf), [eax, ..]) in leaves.range((leaf, 0)..=(leaf, u32::MAX)) {
        let (kind, level) = (eax & 0x1f, eax >> 5 & 0x7);
        if kind == 0 {
            continue;
        }
        let sharing = if level < 3 { 1 } else { count };
        assert_eq!(
            (eax >> 14 & 0xfff) + 1,
            sharing,
            "cache {subleaf}, level {level}: {leaves:x?}"
        );
        if names_cores {
            assert_eq!((eax >> 26) + 1, count, "cores, cache {subleaf}: {leaves:x?}");
        }
    }
}

/// The kernel's parameter `noxsave` makes XSAVE absent for programs on any processor. On the AMD machine Linux does not use
/// it anyway: QEMU 7.2 does not tell KVM which states a guest switches on, so KVM cannot tell the guest their size.
fn programs_find_xsave_as_cpuid_says_and_do_without_it_where_it_is_absent() {
    const XSAVE: u32 = 1 << 26;
    const OSXSAVE: u32 = 1 << 27;
    let run = |parameter: &str| says(&["--cmdline", parameter], &format!("{PROCESSOR}; /processor"));
    let finished = run("");
    let leaves = &leaves(&finished)[0];
    let [_, _, features, _] = leaves[&(1, 0)];
    if matches!(machines::current(), Some(Machine::Intel | Machine::IntelAlone)) {
        assert!(features & OSXSAVE != 0, "the Intel machine has XSAVE\n{finished}");
    }
    if features & OSXSAVE != 0 {
        let [states, size, most, _] = leaves[&(0xd, 0)];
        finished.assert_prints(&format!("\nxcr0 {states:x}\n"));
        assert_eq!(
            size, most,
            "all states are on, so the area has its full size\n{finished}"
        );
    } else {
        finished.assert_prints("\nno xsave\n");
    }
    assert_eq!(
        leaves.contains_key(&(0xd, 0)),
        features & XSAVE != 0,
        "a leaf of XSAVE\n{finished}"
    );
    run("noxsave").assert_prints("\nno xsave\n");
}

/// That the flag x2apic is still there says that Linux did not switch the mode off. The clock is the TSC itself where it
/// never changes its rate, and KVM's otherwise.
fn linux_finds_x2apic_tsc_deadline_and_kvms_clock() {
    let finished = says(
        &["--cpus", "2"],
        "cd /sys/devices/system; echo clocks $(cat clocksource/clocksource0/available_clocksource).; \
         for cpu in 0 1; do echo timer $cpu $(cat clockevents/clockevent$cpu/current_device).; done; \
         echo x2apic on $(grep -c -w x2apic /proc/cpuinfo).; sleep 0.05; echo slept",
    );
    finished
        .assert_prints("kvm-clock")
        .assert_prints("\ntimer 0 lapic-deadline.\n")
        .assert_prints("\ntimer 1 lapic-deadline.\n")
        .assert_prints("\nx2apic on 2.\n")
        .assert_prints("\nslept\n");
}

/// Linux says so when reading or writing an MSR is a fault, and goes on. With this level the kernel keeps all that it says.
fn linux_touches_no_register_that_is_not_there() {
    says(
        &["--cpus", "2", "--cmdline", "loglevel=7"],
        "dmesg | grep -e 'Linux version' -e 'unchecked MSR' >/tmp/found; \
         echo found $(wc -l </tmp/found):; cat /tmp/found",
    )
    .assert_prints("found 1:\n");
}

/// The value of a line of /proc/cpuinfo, of the first processor.
fn of_cpuinfo<'a>(cpuinfo: &'a str, key: &str) -> &'a str {
    cpuinfo
        .lines()
        .find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == key).then_some(value.trim())
        })
        .unwrap_or_else(|| panic!("no {key:?} in\n{cpuinfo}"))
}

fn a_guest_has_its_hosts_vendor_and_model_and_no_feature_that_kvm_does_not_add() {
    /// What KVM emulates on any processor.
    const EMULATED: [&str; 7] = [
        "hypervisor",
        "x2apic",
        "tsc_deadline_timer",
        "tsc_adjust",
        "arat",
        "umip",
        "cpuid_fault",
    ];
    /// An MSR of Intel's, which KVM emulates, too.
    const EMULATED_FOR_INTEL: &str = "arch_capabilities";
    /// What Linux notes of itself.
    const NOTED: [&str; 4] = ["cpuid", "rep_good", "tsc_known_freq", "xtopology"];
    let finished = says(&[], "cat /proc/cpuinfo");
    let host = fs::read_to_string("/proc/cpuinfo").unwrap();
    let guest = finished.console();
    for key in ["vendor_id", "cpu family", "model", "stepping"] {
        assert_eq!(
            of_cpuinfo(&guest, key),
            of_cpuinfo(&host, key),
            "{key}\n{finished}"
        );
    }
    let is_amd = of_cpuinfo(&host, "vendor_id") == "AuthenticAMD";
    let flags =
        |text| -> BTreeSet<String> { of_cpuinfo(text, "flags").split(' ').map(str::to_owned).collect() };
    let (guest, host) = (flags(&guest), flags(&host));
    let added: Vec<_> = guest
        .difference(&host)
        .filter(|flag| !EMULATED.contains(&flag.as_str()) && !NOTED.contains(&flag.as_str()))
        .filter(|flag| is_amd || *flag != EMULATED_FOR_INTEL)
        .collect();
    assert!(added.is_empty(), "{added:?} are the guest's alone");
    assert!(guest.len() > 30, "the flags are a processor's: {guest:?}");
}

/// Virtio 1.2 section 4.2.2: QueueNotify is at 0x050. KVM signals an ioeventfd for it; every other register of the window
/// makes an exit, which the hardware reports as a fault in the tables of guest memory.
fn a_disk_is_notified_without_an_exit_to_coracle() {
    const WINDOW: u64 = 0xd000_0000;
    const QUEUE_NOTIFY: u64 = WINDOW + 0x50;
    let scratch = scratch();
    let disk = sparse(&scratch, "disk", 1 << 20);
    let timings = scratch.path().join("timings.json");
    Coracle::run()
        .args([&format!("--timings={}", timings.display())])
        .args(["--disk", disk.to_str().unwrap()])
        .script("for block in 0 1 2 3 4 5 6 7; do dd if=/proc/version of=/dev/vda seek=$block conv=fsync 2>/dev/null; done; echo written")
        .end()
        .assert_powered_off()
        .assert_prints("written\n");
    let image = fs::read(disk).unwrap();
    let written = image
        .chunks(512)
        .filter(|sector| sector.starts_with(b"Linux version"))
        .count();
    assert_eq!(written, 8);
    let json: Value = serde_json::from_str(&fs::read_to_string(timings).unwrap()).unwrap();
    let writes: Vec<(u64, u64)> = json["exits"]["by_reason"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["reason"] == "MMIO write")
        .filter_map(|row| {
            let address = row["address"].as_str()?.trim_start_matches("0x");
            Some((u64::from_str_radix(address, 16).unwrap(), row["count"].as_u64()?))
        })
        .collect();
    let at = |address| {
        writes
            .iter()
            .find(|(found, _)| *found == address)
            .map(|(_, count)| *count)
    };
    assert_eq!(at(QUEUE_NOTIFY), None, "notifications: {json:#}");
    // Status, section 4.2.3.1: the driver writes it at least four times.
    assert!(at(WINDOW + 0x70).is_some_and(|count| count >= 4), "{json:#}");
}
