//! What the process of a guest may still do, with a real kernel and disks.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use libtest_mimic::Trial;

use super::hardware::kvm_test;
use crate::images::{assert_clean, ext4, scratch, sparse};
use crate::run::{Coracle, Run};

/// Names of tests in tests/kvm that take threads of a run over. On this host's KVM a vCPU may not run by hardware, and the
/// host's kernel may have no modules.
const TAKEOVERS: &[&str] = &[
    "confine::a_read_only_disk_can_be_written_neither_by_its_path_nor_by_its_descriptor",
    "confine::no_file_of_the_persons_can_be_read",
    "confine::no_kvm_can_be_opened_anew",
    "confine::no_module_can_be_loaded_into_the_hosts_kernel",
    "confine::no_ring_opens_a_file",
    "confine::no_tcp_connection_can_be_made",
    "confine::no_thread_has_a_capability_and_no_program_gets_more",
    "confine::no_unix_socket_can_be_reached_by_its_path",
];

pub fn trials() -> Vec<Trial> {
    let takeovers = TAKEOVERS
        .iter()
        .map(|name| Trial::test(format!("confinement::{name}"), || kvm_test(name)));
    takeovers.chain(guests::trials()).collect()
}

mod guests {
    use super::*;

    crate::group!["confinement":
        a_user_who_may_open_only_kvm_and_the_images_runs_a_guest_with_disks,
        root_runs_a_guest_with_disks_as_another_user,
        a_guest_that_reboots_stays_confined,
    ];
}

/// A user who owns nothing else.
const USER: u32 = 65_534;

/// Writes the first disk and reads the second one.
const WORK: &str = "mkdir -p /mnt; mount /dev/vda /mnt; cat /mnt/README; head -c 1000000 /dev/vdb >/mnt/copy; \
                    echo hello >/mnt/new; umount /mnt; echo work done";

/// /dev/kvm, which anybody may open until this is dropped.
pub struct OpenKvm(Permissions);

impl OpenKvm {
    const PATH: &str = "/dev/kvm";

    pub fn new() -> Self {
        let before = fs::metadata(Self::PATH).unwrap().permissions();
        fs::set_permissions(Self::PATH, Permissions::from_mode(0o666)).unwrap();
        Self(before)
    }
}

impl Drop for OpenKvm {
    fn drop(&mut self) {
        let _ = fs::set_permissions(Self::PATH, self.0.clone());
    }
}

pub fn is_root() -> bool {
    // SAFETY: the call has no preconditions.
    unsafe { libc::geteuid() == 0 }
}

/// A run that must be confined in every way, with two disks, the second one read-only.
fn confined(first: &Path, second: &Path) -> Coracle {
    let (first, second) = (first.display(), second.display());
    Coracle::run().args(["--confine", "require"]).args([
        "--disk",
        &first.to_string(),
        "--disk",
        &format!("{second},ro"),
    ])
}

fn status(run: &Run, line: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{}/status", run.id())).unwrap();
    let found = text.lines().find_map(|found| found.strip_prefix(line));
    found.unwrap().trim_start_matches(':').trim().to_owned()
}

fn a_user_who_may_open_only_kvm_and_the_images_runs_a_guest_with_disks() {
    let scratch = scratch();
    let (first, second) = (ext4(&scratch, "first"), sparse(&scratch, "second", 1 << 20));
    let mut coracle = confined(&first, &second);
    // Anybody else runs it as what he is.
    let _kvm = is_root().then(|| {
        for file in [scratch.path(), &first, &second] {
            chown(file, Some(USER), Some(USER)).unwrap();
        }
        OpenKvm::new()
    });
    if is_root() {
        coracle = coracle.started_by(USER);
    }
    coracle
        .script(WORK)
        .end()
        .assert_powered_off()
        .assert_prints("work done");
    assert_clean(&first);
}

fn root_runs_a_guest_with_disks_as_another_user() {
    if !is_root() {
        panic!("this trial is for root");
    }
    let scratch = scratch();
    let (first, second) = (ext4(&scratch, "first"), sparse(&scratch, "second", 1 << 20));
    let owner = |path: &Path| fs::metadata(path).unwrap().uid();
    assert_eq!((owner(&first), owner(&second)), (0, 0));
    let mut run = confined(&first, &second)
        .args(["--host-user", &USER.to_string()])
        .script(&format!("echo at work; read line; {WORK}"))
        .with_input()
        .start();
    run.wait_for("at work");
    assert_eq!(status(&run, "Uid"), [USER.to_string().as_str(); 4].join("\t"));
    assert_eq!(status(&run, "CapPrm"), "0000000000000000");
    let mounts = fs::read_to_string(format!("/proc/{}/mounts", run.id())).unwrap();
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    run.type_in("\n");
    run.end().assert_powered_off().assert_prints("work done");
    assert_clean(&first);
}

fn a_guest_that_reboots_stays_confined() {
    let scratch = scratch();
    let (first, second) = (ext4(&scratch, "first"), sparse(&scratch, "second", 1 << 20));
    // One with a name counts its exits, also after a reboot.
    confined(&first, &second)
        .args(["--on-reboot", "restart", "--name", "again"])
        .variable("XDG_RUNTIME_DIR", scratch.path())
        .script(&format!(
            "{WORK}; mount /dev/vda /mnt; if [ -e /mnt/again ]; then umount /mnt; \
             else touch /mnt/again; umount /mnt; reboot -f; fi"
        ))
        .end()
        .assert_powered_off()
        .assert_prints("work done");
    assert_clean(&first);
}
