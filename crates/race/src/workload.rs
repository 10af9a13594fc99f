//! What every runner runs: the built-in guest's kernel, initrd and init, as files of the kinds that runners take.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Error, Guest};

/// The command when the person gives none: it prints a line and then does nothing.
pub const IDLE: [&str; 3] = ["sh", "-c", "echo idle; exec sleep 1000000"];

/// Kernel parameters of every guest that is not Coracle's: those that Coracle gives its own, but for a way to reset
/// that every VMM has.
const KERNEL_PARAMETERS: &str = "console=ttyS0 panic=-1 reboot=t quiet";

/// What `runc spec` writes: the namespaces, mounts and restrictions of a container unless its owner wants others.
const BUNDLE: &str = include_str!("bundle.json");

/// File types in a mode (cpio(5)).
const TYPE: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// Files for one race, in a temporary directory that goes when this does.
pub struct Workload {
    directory: TempDir,
    /// The arguments of init.
    pub command: Vec<String>,
    pub memory_mib: u64,
    pub cpus: u8,
}

impl Workload {
    pub fn new(guest: Guest, command: Vec<String>, memory_mib: u64, cpus: u8) -> Result<Self, Error> {
        let directory = tempfile::Builder::new()
            .prefix("coracle-race-")
            .tempdir()
            .map_err(|source| Error::Files {
                path: std::env::temp_dir(),
                source,
            })?;
        let workload = Self {
            directory,
            command,
            memory_mib,
            cpus,
        };
        workload.fill(guest).map_err(|source| Error::Files {
            path: workload.directory.path().into(),
            source,
        })?;
        Ok(workload)
    }

    fn fill(&self, guest: Guest) -> io::Result<()> {
        fs::write(self.kernel(), guest.kernel)?;
        fs::write(self.initrd(), guest.initrd)?;
        unpack(guest.initrd, &self.rootfs())?;
        link_commands(&self.rootfs())?;
        // SAFETY: these two only return numbers.
        let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
        let bundle = bundle(&self.command, user, group)?;
        fs::write(self.bundle().join("config.json"), bundle.to_string())?;
        fs::write(self.firecracker(), self.firecracker_machine().to_string())
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn kernel(&self) -> PathBuf {
        self.directory.path().join("vmlinux")
    }

    pub fn initrd(&self) -> PathBuf {
        self.directory.path().join("initrd")
    }

    /// A directory for runtimes of the Open Container Initiative.
    pub fn bundle(&self) -> PathBuf {
        self.directory.path().join("bundle")
    }

    /// The initrd's files, unpacked.
    pub fn rootfs(&self) -> PathBuf {
        self.bundle().join("rootfs")
    }

    /// A machine's description for Firecracker.
    pub fn firecracker(&self) -> PathBuf {
        self.directory.path().join("firecracker.json")
    }

    /// The start with this name puts here what it complains of.
    pub fn complaints(&self, id: &str) -> PathBuf {
        self.directory.path().join(format!("{id}.stderr"))
    }

    /// The arguments of init as the kernel command line has them.
    pub fn init_arguments(&self) -> String {
        quoted(&self.command)
    }

    /// A whole kernel command line.
    pub fn kernel_command_line(&self) -> String {
        format!("{KERNEL_PARAMETERS} -- {}", self.init_arguments())
    }

    fn firecracker_machine(&self) -> Value {
        json!({
            "boot-source": {
                "kernel_image_path": self.kernel().display().to_string(),
                "initrd_path": self.initrd().display().to_string(),
                "boot_args": self.kernel_command_line(),
            },
            "drives": [],
            "machine-config": { "vcpu_count": self.cpus, "mem_size_mib": self.memory_mib },
        })
    }
}

/// A command as the arguments of init on a kernel command line; none if a word of it cannot be passed on.
pub fn init_arguments(command: &[String]) -> Option<String> {
    command
        .iter()
        .all(|word| is_passable(word))
        .then(|| quoted(command))
}

fn quoted(command: &[String]) -> String {
    let quoted = command.iter().map(|word| {
        match word.is_empty() || word.contains(|c: char| c.is_ascii_whitespace()) {
            true => format!("\"{word}\""),
            false => word.clone(),
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// Whether a word can be an argument of init on a kernel command line, which knows no way to write a quotation mark.
pub fn is_passable(word: &str) -> bool {
    word.chars().all(|c| matches!(c, ' '..='~') && c != '"')
}

/// Unpacks directories, regular files and links of a cpio archive in the "newc" format; a container has device nodes of
/// its own.
fn unpack(mut archive: &[u8], into: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(into)?;
    loop {
        let mut entry = cpio::NewcReader::new(archive)?;
        if entry.entry().is_trailer() {
            return Ok(());
        }
        let (name, mode) = (entry.entry().name().to_owned(), entry.entry().mode());
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        let path = into.join(name.trim_start_matches('/'));
        if !is_inside(&path, into) {
            return Err(io::Error::other(format!(
                "the initrd has a file outside of itself: {name}"
            )));
        }
        let permissions = mode & 0o7777;
        match mode & TYPE {
            DIRECTORY => DirBuilder::new()
                .recursive(true)
                .mode(permissions)
                .create(&path)?,
            REGULAR => OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(permissions)
                .open(&path)?
                .write_all(&content)?,
            LINK => symlink(String::from_utf8_lossy(&content).as_ref(), &path)?,
            _ => (),
        }
        archive = entry.finish()?;
    }
}

fn is_inside(path: &Path, directory: &Path) -> bool {
    path.starts_with(directory) && !path.components().any(|part| part == Component::ParentDir)
}

/// Makes a link for each of busybox's commands, as init does in a guest: a container's root file system is read-only.
fn link_commands(rootfs: &Path) -> io::Result<()> {
    let busybox = rootfs.join("bin/busybox");
    if !busybox.exists() {
        return Ok(());
    }
    let list = Command::new(busybox).arg("--list").output()?.stdout;
    for name in String::from_utf8_lossy(&list).split_whitespace() {
        let link = rootfs.join("bin").join(name);
        // What is there already is the initrd's own.
        if is_inside(&link, rootfs) && link.symlink_metadata().is_err() {
            symlink("busybox", link)?;
        }
    }
    Ok(())
}

/// The configuration of a container that runs init with these arguments (OCI runtime specification 1.0.2).
fn bundle(command: &[String], user: u32, group: u32) -> io::Result<Value> {
    let mut bundle: Value = serde_json::from_str(BUNDLE)?;
    let arguments = ["/init".to_owned()].into_iter().chain(command.iter().cloned());
    bundle["process"]["args"] = arguments.collect();
    if user != 0 {
        // Whoever is not root needs a namespace to be root in, which has no other users and groups.
        let map = |id: u32| json!([{ "containerID": 0, "hostID": id, "size": 1 }]);
        bundle["linux"]["uidMappings"] = map(user);
        bundle["linux"]["gidMappings"] = map(group);
        if let Some(namespaces) = bundle["linux"]["namespaces"].as_array_mut() {
            namespaces.push(json!({ "type": "user" }));
        }
        for mount in bundle["mounts"].as_array_mut().into_iter().flatten() {
            if let Some(options) = mount["options"].as_array_mut() {
                options.retain(|option| option != "gid=5");
            }
        }
    }
    Ok(bundle)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn archive() -> Vec<u8> {
        let mut archive = Vec::new();
        let mut add = |name: &str, mode, content: &[u8]| {
            let mut writer = cpio::NewcBuilder::new(name)
                .mode(mode)
                .write(&mut archive, content.len() as u32);
            writer.write_all(content).unwrap();
            writer.finish().unwrap();
        };
        add("dev", DIRECTORY | 0o755, b"");
        add("dev/console", 0o020_600, b"");
        add("bin", DIRECTORY | 0o755, b"");
        // Names may be padded, so that what follows is where a page starts.
        add("bin/busybox\0\0\0\0\0\0", REGULAR | 0o755, b"program");
        add("bin/sh", LINK | 0o777, b"busybox");
        cpio::newc::trailer(archive).unwrap()
    }

    #[test]
    fn an_initrd_is_unpacked_without_its_device_nodes() {
        let scratch = tempfile::tempdir().unwrap();
        let rootfs = scratch.path().join("a/rootfs");
        unpack(&archive(), &rootfs).unwrap();
        assert_eq!(fs::read(rootfs.join("bin/sh")).unwrap(), b"program");
        assert_eq!(
            fs::read_link(rootfs.join("bin/sh")).unwrap(),
            Path::new("busybox")
        );
        let mode = fs::metadata(rootfs.join("bin/busybox"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o755);
        assert!(rootfs.join("dev").is_dir() && !rootfs.join("dev/console").exists());
    }

    #[test]
    fn a_broken_initrd_is_an_error() {
        let scratch = tempfile::tempdir().unwrap();
        let archive = archive();
        for length in 0..archive.len() - 4 {
            let rootfs = scratch.path().join(length.to_string());
            assert!(unpack(&archive[..length], &rootfs).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_file_outside_of_the_initrd_is_an_error() {
        let mut archive = Vec::new();
        cpio::NewcBuilder::new("../outside")
            .mode(REGULAR | 0o644)
            .write(&mut archive, 0)
            .finish()
            .unwrap();
        let scratch = tempfile::tempdir().unwrap();
        assert!(unpack(&archive, &scratch.path().join("rootfs")).is_err());
        assert!(!scratch.path().join("outside").exists());
    }

    #[test]
    fn roots_bundle_is_that_of_runc_spec_with_init_in_it() {
        let bundle = bundle(&["uname".into(), "-r".into()], 0, 0).unwrap();
        assert_eq!(bundle["process"]["args"], json!(["/init", "uname", "-r"]));
        let namespaces: Vec<_> = bundle["linux"]["namespaces"]
            .as_array()
            .unwrap()
            .iter()
            .map(|namespace| namespace["type"].as_str().unwrap())
            .collect();
        assert_eq!(namespaces, ["pid", "network", "ipc", "uts", "mount"]);
    }

    #[test]
    fn anybody_elses_bundle_has_a_user_namespace_without_other_groups() {
        let bundle = bundle(&[], 1000, 100).unwrap();
        assert_eq!(bundle["linux"]["uidMappings"][0]["hostID"], 1000);
        assert_eq!(bundle["linux"]["gidMappings"][0]["hostID"], 100);
        assert!(bundle["linux"]["namespaces"].to_string().contains("user"));
        assert!(!bundle["mounts"].to_string().contains("gid=5"));
    }

    #[test]
    fn words_with_blanks_reach_init_whole() {
        let directory = tempfile::tempdir().unwrap();
        let workload = Workload {
            directory,
            command: ["sh", "-c", "echo 'a b'", ""].map(String::from).into(),
            memory_mib: 64,
            cpus: 2,
        };
        assert_eq!(workload.init_arguments(), "sh -c \"echo 'a b'\" \"\"");
        assert!(
            workload
                .kernel_command_line()
                .ends_with(" -- sh -c \"echo 'a b'\" \"\"")
        );
        let machine = workload.firecracker_machine();
        assert_eq!(machine["machine-config"]["mem_size_mib"], 64);
        assert!(!is_passable("a\"b") && !is_passable("a\nb") && is_passable("it's 100 %"));
    }
}
