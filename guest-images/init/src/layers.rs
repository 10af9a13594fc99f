//! A root that is made of two layers: one that is only read, as an OCI image is, and over it one that takes what is written.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};

use crate::cmdline::Root;
use crate::root::{NEW_ROOT, mount_root};
use crate::say::complain;

const LOWER: &str = "/lower";
const LAYER: &str = "/layer";
/// What is written. The root as such has its owner and mode.
const UPPER: &str = "/layer/upper";
/// Linux filesystems/overlayfs. The layer's file system has both directories. A directory of the lower layer can be renamed as any
/// other.
const OPTIONS: &str = "lowerdir=/lower,upperdir=/layer/upper,workdir=/layer/work,redirect_dir=on";

/// Directories of the new root on which something is mounted. A root for one program may lack them.
const MOUNT_POINTS: [&str; 3] = ["/dev", "/proc", "/sys"];
/// What a guest for programs has beside what every guest has: target, type and options.
const MOUNTS: [(&str, &str, &str); 2] = [
    ("/new-root/sys/fs/cgroup", "cgroup2", "nsdelegate"),
    ("/new-root/dev/mqueue", "mqueue", ""),
];
/// Without it `localhost` has no address for programs.
const HOSTS: (&str, &str) = (
    "/new-root/etc/hosts",
    "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
);

/// Mounts the root's device, and over it the layer's, as the new root.
pub fn mount_both(root: &Root, lower: &str, layer: &str) -> Result<(), String> {
    mount_root(root, lower, LOWER)?;
    let made = [LAYER, NEW_ROOT].into_iter().try_for_each(fs::create_dir);
    made.map_err(|why| format!("cannot make a directory for the root: {why}"))?;
    mount(
        Some(layer),
        LAYER,
        Some("ext4"),
        MsFlags::MS_NOATIME,
        None::<&str>,
    )
    .map_err(|why| format!("cannot mount the writable layer {layer} (ext4): {why}"))?;
    own_as(LOWER, UPPER).map_err(|why| format!("cannot make {layer}'s directory as {lower}'s: {why}"))?;
    mount(
        Some("overlay"),
        NEW_ROOT,
        Some("overlay"),
        MsFlags::empty(),
        Some(OPTIONS),
    )
    .map_err(|why| format!("cannot mount {layer} over {lower}: {why}"))?;
    for target in MOUNT_POINTS {
        let target = format!("{NEW_ROOT}{target}");
        // It is there already as a rule. A link of the image would lead out of the new root, and no mount goes on a file.
        if fs::create_dir(&target).is_err()
            && !fs::symlink_metadata(&target).is_ok_and(|there| there.is_dir())
        {
            let _ = fs::remove_file(&target);
            let _ = fs::create_dir(&target);
        }
    }
    Ok(())
}

/// Gives a directory the owner and the mode of another one.
fn own_as(model: &str, directory: &str) -> io::Result<()> {
    let (model, own) = (fs::metadata(model)?, fs::metadata(directory)?);
    if (model.uid(), model.gid()) != (own.uid(), own.gid()) {
        chown(directory, Some(model.uid()), Some(model.gid()))?;
    }
    if model.mode() != own.mode() {
        fs::set_permissions(directory, model.permissions())?;
    }
    Ok(())
}

/// Gives the new root what programs expect of a machine: control groups, message queues, and the loopback interface with its name.
/// After that it is read-only unless it `is_written`.
pub fn furnish(is_written: bool) {
    for (target, kind, options) in MOUNTS {
        let _ = fs::create_dir(target);
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        if let Err(why) = mount(Some(kind), target, Some(kind), flags, Some(options)) {
            complain(format_args!("cannot mount {kind}: {why}"));
        }
    }
    if let Err(why) = bring_loopback_up() {
        complain(format_args!("cannot bring the loopback interface up: {why}"));
    }
    let (hosts, text) = HOSTS;
    // No link of the image is followed, because it would lead out of the new root, and no pipe of it is waited for.
    let has_none = fs::symlink_metadata(hosts).map_or(true, |hosts| hosts.is_file() && hosts.len() == 0);
    // An image without /etc has no programs that would look there.
    let is_directory = |path: &Path| fs::symlink_metadata(path).is_ok_and(|path| path.is_dir());
    if has_none && Path::new(hosts).parent().is_some_and(is_directory) {
        let _ = fs::write(hosts, text);
    }
    if !is_written {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        if let Err(why) = mount(None::<&str>, NEW_ROOT, None::<&str>, flags, None::<&str>) {
            complain(format_args!("cannot make the root read-only: {why}"));
        }
    }
}

/// A socket of any family sets an interface's flags (netdevice(7)); one of the Internet's would start all of the network.
fn bring_loopback_up() -> io::Result<()> {
    // SAFETY: the call takes numbers.
    let socket = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    let socket = Errno::result(socket)?;
    // SAFETY: the kernel has just made the descriptor, and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: an ifreq of zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[..2].copy_from_slice(&[b'l' as libc::c_char, b'o' as libc::c_char]);
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the request reads an ifreq, which lives across the call.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) })?;
    Ok(())
}
