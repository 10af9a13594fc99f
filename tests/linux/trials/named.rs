//! Linux guests that have a name.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use libc::SIGTERM;

use crate::harbour::Harbour;
use crate::images::{assert_clean, cpio, ext4, file_on, scratch};
use crate::place;
use crate::run::Finished;

crate::group!["named":
    a_detached_guest_is_found_by_its_name_and_ended,
    a_stock_guest_outlives_a_long_pause_and_powers_off_by_its_button,
    what_was_written_is_whole_after_a_stop_also_of_a_paused_guest,
    a_guest_that_hangs_is_ended_after_the_time_given,
    sigterm_asks_a_guest_in_the_foreground_and_the_second_one_ends_it,
    a_command_in_the_background_has_a_log_and_an_exit_code,
    a_command_beside_another_has_what_that_one_has,
    a_command_in_the_background_that_cannot_run_is_told,
    a_command_in_the_background_is_asked_to_end_and_its_status_counts,
    a_command_in_the_foreground_with_a_name_has_both_streams_and_log,
];

fn a_detached_guest_is_found_by_its_name_and_ended() {
    let harbour = Harbour::new();
    assert_eq!(harbour.say(&["run", "-d", "--name", "web"]), "web\n");
    // That is what the start waited for.
    assert!(harbour.say(&["logs", "web"]).contains("Coracle guest: Linux"));
    assert!(harbour.say(&["ps"]).contains("web "));
    assert_eq!(harbour.say(&["pause", "web"]), "web\n");
    assert_eq!(harbour.say(&["unpause", "web"]), "web\n");
    // Without a word on stderr: it has powered off by itself.
    assert_eq!(harbour.say(&["stop", "web"]), "web\n");
    assert_eq!(harbour.say(&["wait", "web"]), "0\n");
    assert_eq!(harbour.say(&["rm", "web"]), "web\n");
    assert_eq!(harbour.say(&["ps", "-aq"]), "");
}

/// PID 1 of a guest that powers off when its power button is pressed, as a distribution's does: Debian's own drivers find the
/// button by ACPI, and tell of it as of a key. Its kernel's watchdog reports a processor that stays in one place for two seconds, once
/// it has seen that it is not idle.
const INIT: &str = "#!/bin/busybox sh
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
echo 1 >/proc/sys/kernel/watchdog_thresh
echo watchdog $(cat /proc/sys/kernel/soft_watchdog /proc/sys/kernel/watchdog_thresh)
for module in evdev button; do insmod /modules/$module.ko; done
while :; do :; done &
echo waiting for the button
dd if=/dev/input/event0 of=/dev/null bs=24 count=1
echo the button was pressed, and $(dmesg | grep -c 'soft lockup') processors stood still
poweroff -f
";

fn a_stock_guest_outlives_a_long_pause_and_powers_off_by_its_button() {
    let harbour = Harbour::new();
    // What follows in an initrd replaces what is before.
    let mut initrd = fs::read(place::stock().join("stock-initrd")).unwrap();
    initrd.extend(cpio("init", 0o755, INIT.as_bytes()));
    let initrd_path: PathBuf = harbour.path().join("initrd");
    fs::write(&initrd_path, initrd).unwrap();
    let kernel = place::stock().join("vmlinuz");
    let started = harbour
        .coracle(&["run", "-d", "--name", "stock", "--memory", "256M"])
        .args(["--kernel".as_ref(), kernel.as_os_str()])
        .args(["--initrd".as_ref(), initrd_path.as_os_str()])
        .args(["--cmdline", place::STOCK_QUICKLY])
        .end();
    started.assert_powered_off();
    assert_eq!(started.console(), "stock\n");
    let mut following = harbour.coracle(&["logs", "-f", "stock"]).start();
    following.wait_for("watchdog 1 1");
    following.wait_for("waiting for the button");
    // The watchdog looks more than twice a second.
    thread::sleep(Duration::from_millis(500));
    assert_eq!(harbour.say(&["pause", "stock"]), "stock\n");
    thread::sleep(Duration::from_secs(3));
    assert_eq!(harbour.say(&["unpause", "stock"]), "stock\n");
    thread::sleep(Duration::from_millis(500));
    assert_eq!(harbour.say(&["stop", "stock"]), "stock\n");
    following.wait_for("the button was pressed, and 0 processors stood still");
    following.end().assert_powered_off();
    assert_eq!(harbour.say(&["wait", "stock"]), "0\n");
}

fn what_was_written_is_whole_after_a_stop_also_of_a_paused_guest() {
    for pauses in [false, true] {
        let disk_directory = scratch();
        let disk = ext4(&disk_directory, "disk.ext4");
        let harbour = Harbour::with_web(&["--disk", disk.to_str().unwrap()]);
        harbour.say(&[
            "exec",
            "web",
            "sh",
            "-c",
            "mkdir -p /mnt; mount /dev/vda /mnt; echo kept >/mnt/file",
        ]);
        if pauses {
            harbour.say(&["pause", "web"]);
        }
        assert_eq!(harbour.say(&["stop", "web"]), "web\n");
        assert_eq!(harbour.say(&["wait", "web"]), "0\n");
        assert_clean(&disk);
        assert_eq!(file_on(&disk, "/file"), b"kept\n");
    }
}

fn a_guest_that_hangs_is_ended_after_the_time_given() {
    // This init starts the agent, and nothing listens to what it asks for.
    let harbour = Harbour::with_web(&["--cmdline", "init=/bin/busybox -- sleep 1000"]);
    harbour.say(&[
        "exec",
        "web",
        "sh",
        "-c",
        "echo '#!/bin/sh' >/bin/poweroff2; mv /bin/poweroff2 /bin/poweroff; chmod 755 /bin/poweroff",
    ]);
    let stopped: Finished = harbour.coracle(&["stop", "-t", "1", "web"]).end();
    stopped
        .assert_code(0)
        .assert_explains("guest 'web' was ended: it did not power off within 1 s");
    assert_eq!(harbour.say(&["wait", "web"]), "143\n");
}

fn sigterm_asks_a_guest_in_the_foreground_and_the_second_one_ends_it() {
    let harbour = Harbour::new();
    let start = || {
        let mut run = harbour
            .coracle(&["run", "--rm", "--name", "web"])
            .on_terminal()
            .start();
        run.wait_for("guest:/");
        // Then the agent listens.
        harbour.say(&["exec", "web", "true"]);
        run
    };
    let run = start();
    run.signal(SIGTERM);
    run.end()
        .assert_code(0)
        .assert_explains("coracle: the guest is asked to power off")
        .assert_terminal_restored();
    let mut run = start();
    // PID 1 waits two seconds for such a shell.
    run.type_in("trap '' TERM HUP; echo re'ad'y; while :; do :; done\r");
    run.wait_for("ready");
    run.signal(SIGTERM);
    run.wait_for_message("is asked to power off");
    run.signal(SIGTERM);
    run.end().assert_code(143).assert_terminal_restored();
}

fn a_command_in_the_background_has_a_log_and_an_exit_code() {
    let harbour = Harbour::new();
    let script = "echo out; echo err >&2; sleep 1; exit 7";
    assert_eq!(
        harbour.say(&["run", "-d", "--name", "job", "--", "sh", "-c", script]),
        "job\n"
    );
    assert_eq!(harbour.say(&["exec", "job", "echo", "beside it"]), "beside it\n");
    assert_eq!(harbour.say(&["wait", "job"]), "7\n");
    let log = harbour.say(&["logs", "job"]);
    assert!(log == "out\nerr\n" || log == "err\nout\n", "{log}");
    // Nothing is written before its end by this one.
    assert_eq!(
        harbour.say(&["run", "-d", "--name", "quiet", "--", "sleep", "0.1"]),
        "quiet\n"
    );
    assert_eq!(harbour.say(&["wait", "quiet"]), "0\n");
}

fn a_command_beside_another_has_what_that_one_has() {
    let harbour = Harbour::new();
    let options = ["-e", "A=one", "-e", "B=two", "-w", "/tmp", "-u", "1000:100"];
    let words = [
        &["run", "-d", "--name", "job"],
        &options[..],
        &["--", "sleep", "1000"],
    ]
    .concat();
    assert_eq!(harbour.say(&words), "job\n");
    let script = "echo $A $B $(pwd) $(id -u):$(id -g) $(hostname)";
    let beside = |options: &[&str]| harbour.say(&[&["exec"], options, &["job", "sh", "-c", script]].concat());
    assert_eq!(beside(&[]), "one two /tmp 1000:100 job\n");
    assert_eq!(
        beside(&["-e", "A=1", "-w", "/", "-u", "root"]),
        "1 two / 0:0 job\n"
    );
    assert!(harbour.say(&["ps"]).contains("sleep 1000"));

    // Nobody reads keys there.
    let mut attached = harbour.coracle(&["attach", "job"]).on_terminal().start();
    attached.wait_for_message("it gets no keys");
    attached.type_in("\x01d");
    attached.end().assert_code(0).assert_terminal_restored();
    harbour
        .coracle(&["run", "-dit", "--name", "other", "--", "sh"])
        .end()
        .assert_code(125)
        .assert_explains("leave out -i");
}

fn a_command_in_the_background_that_cannot_run_is_told() {
    let harbour = Harbour::new();
    harbour
        .coracle(&["run", "-d", "--name", "job", "--", "no-such-program"])
        .end()
        .assert_code(127)
        .assert_explains("there is no program no-such-program in the guest");
    assert_eq!(harbour.say(&["wait", "job"]), "127\n");
}

fn a_command_in_the_background_is_asked_to_end_and_its_status_counts() {
    let harbour = Harbour::new();
    let script = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.1; done";
    harbour.say(&["run", "-d", "--name", "job", "--", "sh", "-c", script]);
    let mut following = harbour.coracle(&["logs", "-f", "job"]).start();
    following.wait_for("ready");
    assert_eq!(harbour.say(&["stop", "job"]), "job\n");
    following.wait_for("bye");
    assert_eq!(harbour.say(&["wait", "job"]), "5\n");
}

fn a_command_in_the_foreground_with_a_name_has_both_streams_and_log() {
    let harbour = Harbour::new();
    let finished = harbour
        .coracle(&["run", "--name", "job", "--", "sh", "-c", "echo out; exit 3"])
        .end();
    finished.assert_code(3).assert_prints("out\n");
    assert_eq!(finished.stderr, "", "{finished}");
    assert_eq!(harbour.say(&["logs", "job"]), "out\n");
    assert_eq!(harbour.say(&["wait", "job"]), "3\n");
}
