//! The agent beside an init that knows nothing of it, and what only a guest that runs on asks of it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::harbour::Harbour;
use crate::images::{assert_clean, noise, run};
use crate::place;

crate::group!["agent":
    it_serves_a_linux_into_which_it_was_installed,
    a_guest_that_goes_on_has_the_hosts_time,
];

/// How long a guest may take until its agent listens.
const PATIENCE: Duration = Duration::from_secs(60);

/// Init of busybox starts the agent, and the guest has a kernel and a disk of the person's.
fn it_serves_a_linux_into_which_it_was_installed() {
    let harbour = Harbour::with_web(&[]);
    let root = harbour.path().join("root");
    for directory in ["bin", "sbin", "etc", "usr", "proc", "dev", "tmp"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    harbour.say(&["cp", "web:/bin/busybox", root.join("bin/").to_str().unwrap()]);
    harbour.say(&["kill", "web"]);
    for name in [
        "bin/sh",
        "bin/cat",
        "bin/cmp",
        "sbin/init",
        "sbin/poweroff",
        "bin/mount",
    ] {
        symlink("/bin/busybox", root.join(name)).unwrap();
    }
    let inittab = "::sysinit:/bin/mount -t proc none /proc\n::sysinit:/bin/mount -t devtmpfs none /dev\n\
        ::respawn:/usr/lib/coracle/agent --agent\n";
    fs::write(root.join("etc/inittab"), inittab).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let installed = harbour.coracle(&["agent", "--install-into", &text(&root)]).end();
    installed.assert_code(0);
    installed.assert_explains("there is no systemd in it");
    assert_eq!(
        fs::metadata(root.join("usr/lib/coracle/agent"))
            .unwrap()
            .permissions(),
        Permissions::from_mode(0o100_755)
    );
    let disk = harbour.path().join("disk");
    run(
        "/sbin/mke2fs",
        &["-q", "-t", "ext4", "-d", &text(&root), &text(&disk), "16M"],
    )
    .unwrap();
    let kernel = text(&place::guest_images().join("vmlinux"));
    harbour.say(&[
        "run",
        "-d",
        "--name",
        "other",
        "--confine",
        "require",
        "--kernel",
        &kernel,
        "--disk",
        &text(&disk),
        "--cmdline",
        "root=/dev/vda rw",
    ]);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let finished = harbour.coracle(&["exec", "other", "cat", "/proc/1/comm"]).end();
        if finished.console() == "init\n" {
            break;
        }
        finished.assert_explains("none listens");
        assert!(Instant::now() < deadline, "{finished}");
    }
    let file = harbour.path().join("file");
    fs::write(&file, noise(8, 300_000)).unwrap();
    harbour.say(&["cp", &text(&file), "other:/tmp/"]);
    harbour.say(&["exec", "other", "cmp", "/tmp/file", "/tmp/file"]);
    let back = harbour.path().join("back");
    harbour.say(&["cp", "other:/tmp/file", &text(&back)]);
    assert!(fs::read(&file).unwrap() == fs::read(&back).unwrap());
    assert_eq!(harbour.say(&["stop", "other"]), "other\n");
    assert_eq!(harbour.say(&["wait", "other"]), "0\n");
    assert_clean(&disk);
}

fn a_guest_that_goes_on_has_the_hosts_time() {
    let harbour = Harbour::with_web(&[]);
    let clock = || {
        harbour
            .say(&["exec", "web", "date", "+%s"])
            .trim()
            .parse::<u64>()
            .unwrap()
    };
    harbour.say(&["exec", "web", "date", "-s", "@1000000000"]);
    assert!(clock() < 1_000_001_000);
    harbour.say(&["pause", "web"]);
    harbour.say(&["unpause", "web"]);
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(clock().abs_diff(ours) < 30, "{} and {ours}", clock());
}
