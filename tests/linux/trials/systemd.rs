//! Debian with systemd, its own kernel and its own initrd: its agent serves as a unit, and it shuts down cleanly, which its
//! journal tells.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::harbour::Harbour;
use crate::images::{assert_clean, noise, run};
use crate::place;

crate::group!["systemd": ; too_slow_here() =>
    debian_serves_by_its_agent_and_shuts_down_when_the_agent_or_the_button_says_so,
];

fn too_slow_here() -> Option<&'static str> {
    (place::is_inside() && !place::is_full()).then_some("minutes: CORACLE_LINUX_TESTS=full")
}

/// Seconds that it may take to start, in a nested machine on a busy host.
const PATIENCE: u64 = 1200;

fn debian_serves_by_its_agent_and_shuts_down_when_the_agent_or_the_button_says_so() {
    if place::is_inside() {
        // Drivers of the disk in both vendors' nested machines.
        run("modprobe", &["-a", "virtio_blk", "ata_piix", "sd_mod"]).unwrap();
    }
    let harbour = Harbour::new();
    start(&harbour, "");
    wait_until("its agent listens", || {
        let finished = harbour.coracle(&["exec", "debian", "cat", "/proc/1/comm"]).end();
        finished.console() == "systemd\n"
    });
    let waits = ["exec", "debian", "systemctl", "is-system-running", "--wait"];
    assert_eq!(say(&harbour, &waits), "running\n");
    let text = |name: &str| harbour.path().join(name).to_str().unwrap().to_owned();
    fs::write(text("there"), noise(9, 3_000_000)).unwrap();
    harbour.say(&["cp", &text("there"), "debian:/root/file"]);
    harbour.say(&["cp", "debian:/root/file", &text("back")]);
    assert!(fs::read(text("there")).unwrap() == fs::read(text("back")).unwrap());
    shut_down(&harbour);

    start(&harbour, "systemd.mask=coracle-agent.service");
    wait_until("it has started", || {
        harbour.say(&["logs", "debian"]).contains("Multi-User System")
    });
    harbour
        .coracle(&["exec", "debian", "true"])
        .end()
        .assert_explains("none listens");
    shut_down(&harbour);

    assert_clean(&place::systemd_disk());
    let dump = format!("rdump /var/log/journal {}", harbour.path().display());
    run(
        "/sbin/debugfs",
        &["-R", &dump, place::systemd_disk().to_str().unwrap()],
    )
    .unwrap();
    for (boot, words) in [("-1", "coracle-agent"), ("0", "Power key pressed")] {
        let directory = text("journal");
        let options = ["--directory", &directory, "--boot", boot, "--no-pager"];
        let journal = run(place::JOURNALCTL, &options).unwrap();
        for words in [words, "Reached target poweroff.target", "Journal stopped"] {
            assert!(
                journal.contains(words),
                "boot {boot} without {words:?}:\n{journal}"
            );
        }
    }
}

fn start(harbour: &Harbour, parameters: &str) {
    let text = |name: &str| place::stock().join(name).to_str().unwrap().to_owned();
    let (kernel, initrd) = (text("systemd-kernel"), text("systemd-initrd"));
    let disk = place::systemd_disk().to_str().unwrap().to_owned();
    let line = format!("root=LABEL=systemd rw {parameters}");
    let words = ["run", "-d", "--rm", "--name", "debian", "--memory", "512M"];
    let files = ["--kernel", &kernel, "--initrd", &initrd, "--disk", &disk];
    // It also says that nothing has shown yet that init runs.
    harbour
        .coracle(&[&words[..], &files, &["--cmdline", &line]].concat())
        .end()
        .assert_code(0);
}

fn shut_down(harbour: &Harbour) {
    assert_eq!(say(harbour, &["stop", "-t", "600", "debian"]), "debian\n");
}

/// As [`Harbour::say`], for what takes long.
fn say(harbour: &Harbour, arguments: &[&str]) -> String {
    let finished = harbour.coracle(arguments).patience(PATIENCE).end();
    finished.assert_powered_off();
    finished.console()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(PATIENCE);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {PATIENCE} s: {what}");
        thread::sleep(Duration::from_secs(2));
    }
}
