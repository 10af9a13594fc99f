//! `coracle agent`: puts the agent into the root file system of any Linux guest.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use coracle_archive::{Entry, Kind, Policy, Reader, Time, Top, Unpacker, Writer};

use super::{Error, print, system, tell};
use crate::built_in;

/// Where the agent's files go, and where systemd looks for units of the system's own.
const DIRECTORIES: [&str; 6] = [
    "usr",
    "usr/lib",
    "usr/lib/coracle",
    "etc",
    "etc/systemd",
    "etc/systemd/system",
];
const WANTED: &str = "etc/systemd/system/multi-user.target.wants";
const AGENT: &str = "usr/lib/coracle/agent";
const UNIT: &str = "coracle-agent.service";

/// The systemd unit. The agent waits for the socket device by itself.
const UNIT_TEXT: &str = "\
[Unit]
Description=Coracle's agent: coracle exec, cp and stop, from the host
ConditionVirtualization=vm
StartLimitIntervalSec=0

[Service]
ExecStartPre=-/sbin/modprobe -q vmw_vsock_virtio_transport
ExecStart=/usr/lib/coracle/agent --agent
StandardOutput=null
Restart=always
RestartSec=1
KillMode=process
OOMPolicy=continue

[Install]
WantedBy=multi-user.target
";

/// Put the agent into a Linux guest's root file system, for coracle exec, cp and stop
///
/// The built-in guest has an agent. Any other Linux gets one by this: a static program, and a systemd unit that starts it. The guest needs a
/// name (coracle run --name), and a kernel with virtio sockets, as distributions have them.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mount -o loop debian.img /mnt && coracle agent --install-into /mnt && umount /mnt
      into a disk image, while no guest runs on it
  coracle agent --install-into rootfs
      into a directory that becomes an image later

Without systemd, have the guest's own init start /usr/lib/coracle/agent --agent as root. The agent runs whatever the user asks for who \
runs the guest on the host, as root of the guest; it listens for nobody else. Installed again, a newer one takes the place of an older one.")]
pub struct Args {
    /// The root of the file system: a mounted disk, or a directory. Nothing outside of it is changed, wherever its links lead
    #[arg(long, value_name = "ROOTFS")]
    install_into: PathBuf,
}

pub fn execute(args: &Args) -> Result<u8, Error> {
    let root = &args.install_into;
    let Some(agent) = agent().map_err(system("find the agent in the built-in guest"))? else {
        return Err(Error::Command(
            "this coracle was built without the built-in guest, which has the agent: make guest, and build it again".into(),
        ));
    };
    let directory = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY)
        .open(root);
    let directory =
        directory.map_err(|error| Error::Command(format!("cannot open the directory {root:?}: {error}")))?;
    let is_root_file_system = |name: &str| root.join(name).symlink_metadata().is_ok();
    if !["etc", "usr"].into_iter().all(is_root_file_system) {
        return Err(Error::Command(format!(
            "{root:?} is no root file system of a Linux: it has no etc and usr (is the disk mounted?)"
        )));
    }
    install(directory, &agent).map_err(|error| Error::Command(format!("in {root:?}: {error}")))?;
    if !has_systemd(root) {
        tell(
            "coracle: there is no systemd in it: have the guest's own init start /usr/lib/coracle/agent --agent as root",
        );
    }
    if !is_root() {
        tell(
            "coracle: the files belong to you: have root own them before a guest uses them, which would run your program as its root \
             (chown, or the same command as root)",
        );
    }
    let unit = format!("etc/systemd/system/{UNIT}");
    let [agent, unit] = [AGENT, &unit].map(|file| root.join(file).display().to_string());
    print("print the answer", format!("{agent}\n{unit}\n"))?;
    Ok(0)
}

/// Whether files can be given to root.
fn is_root() -> bool {
    // SAFETY: a system call without pointers.
    unsafe { libc::geteuid() == 0 }
}

/// Init of the built-in guest, which is the agent as well.
fn agent() -> io::Result<Option<Vec<u8>>> {
    let Some(mut archive) = built_in::initrd_bytes() else {
        return Ok(None);
    };
    loop {
        let mut file = cpio::NewcReader::new(archive)?;
        if file.entry().is_trailer() {
            return Err(io::ErrorKind::NotFound.into());
        }
        // Names are filled up with zeros to a page.
        if file.entry().name().trim_end_matches('\0') == "init" {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            return Ok(Some(bytes));
        }
        archive = file.finish()?;
    }
}

/// Unpacks the agent's files as an archive: so nothing is written outside of the directory, and each file is whole or not there.
fn install(directory: File, agent: &[u8]) -> io::Result<()> {
    let mut writer = Writer::new(Vec::new());
    for path in DIRECTORIES.into_iter().chain([WANTED]) {
        writer.entry(&entry(path, Kind::Directory, 0o755))?;
    }
    for (path, bytes, mode) in [
        (AGENT.to_owned(), agent, 0o755),
        (format!("etc/systemd/system/{UNIT}"), UNIT_TEXT.as_bytes(), 0o644),
    ] {
        let size = bytes.len() as u64;
        writer.entry(&entry(&path, Kind::File { size, pieces: None }, mode))?;
        writer.data(bytes)?;
    }
    let link = Kind::Symlink(format!("../{UNIT}").into_bytes());
    writer.entry(&entry(&format!("{WANTED}/{UNIT}"), link, 0o777))?;
    let archive = writer.finish()?;
    let policy = Policy {
        owners: is_root(),
        is_trusted: false,
    };
    let mut reader = Reader::new(&archive[..]);
    // Nothing in it is left out.
    let mut warn = |_: &str| ();
    let mut unpacker = Unpacker::new(directory.into(), Top::Keep, policy, &mut warn);
    while let Some(entry) = reader.next_entry()? {
        unpacker.put(entry, &mut reader)?;
    }
    unpacker.finish()
}

fn entry(path: &str, kind: Kind, mode: u32) -> Entry {
    Entry {
        path: path.into(),
        kind,
        mode,
        uid: 0,
        gid: 0,
        modified: Time::default(),
    }
}

fn has_systemd(root: &Path) -> bool {
    ["usr/lib/systemd/systemd", "lib/systemd/systemd"]
        .into_iter()
        .any(|name| root.join(name).symlink_metadata().is_ok())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tempfile::TempDir;

    use super::*;

    fn open(root: &TempDir) -> File {
        File::open(root.path()).unwrap()
    }

    #[test]
    fn the_agent_and_its_unit_are_where_systemd_finds_them_also_the_second_time() {
        let root = TempDir::new().unwrap();
        for text in ["older", "newer"] {
            install(open(&root), text.as_bytes()).unwrap();
            let agent = root.path().join(AGENT);
            assert_eq!(fs::read_to_string(&agent).unwrap(), text);
            assert_eq!(fs::metadata(&agent).unwrap().permissions().mode() & 0o777, 0o755);
            // The link leads to the unit.
            let unit = fs::read_to_string(root.path().join(WANTED).join(UNIT)).unwrap();
            assert_eq!(unit, UNIT_TEXT);
            assert!(unit.contains(&format!("ExecStart=/{AGENT} --agent")));
        }
    }

    #[test]
    fn links_that_lead_out_of_the_root_are_not_followed() {
        for link in ["usr", "usr/lib", "etc", "etc/systemd/system"] {
            let (root, outside) = (TempDir::new().unwrap(), TempDir::new().unwrap());
            let link = root.path().join(link);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(outside.path(), &link).unwrap();
            let error = install(open(&root), b"agent").unwrap_err().to_string();
            assert!(error.contains("is not followed"), "{error}");
            assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        }
        // The files' own names are taken.
        let (root, outside) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let kept = outside.path().join("kept");
        fs::write(&kept, "kept").unwrap();
        fs::create_dir_all(root.path().join("usr/lib/coracle")).unwrap();
        symlink(&kept, root.path().join(AGENT)).unwrap();
        install(open(&root), b"agent").unwrap();
        assert_eq!(fs::read(&kept).unwrap(), b"kept");
        assert_eq!(fs::read(root.path().join(AGENT)).unwrap(), b"agent");
    }

    #[cfg(built_in_guest)]
    #[test]
    fn the_built_in_guest_has_the_agent() {
        let agent = agent().unwrap().unwrap();
        assert_eq!(&agent[..4], b"\x7fELF");
    }
}
