//! The built-in guest, and what Coracle prints beside it.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::images::{assert_clean, ext4, run, scratch, sparse};
use crate::place;
use crate::run::{Coracle, Finished};

crate::group!["guest":
    the_doctor_is_content_where_linux_boots,
    the_demonstration_writes_a_disk_of_its_own_and_powers_off,
    the_demonstration_only_reads_any_other_disk,
    a_full_disk_of_the_demonstrations_is_read,
    the_demonstration_says_that_there_is_no_disk,
    the_readme_shows_what_the_guest_prints,
    a_command_after_two_dashes_is_what_the_guest_runs,
    a_command_runs_in_the_root_that_is_named,
    the_roots_own_init_is_run_in_place_of_the_built_in_one,
    a_root_that_is_not_there_is_told,
    the_entropy_device_gives_random_bytes,
    what_the_boot_leaves_out_starts_when_a_program_asks_for_it,
    verbose_messages_are_on_stderr_alone,
];

fn the_doctor_is_content_where_linux_boots() {
    Coracle::program(place::coracle())
        .args(["doctor"])
        .end()
        .assert_code(0);
}

fn the_demonstration_writes_a_disk_of_its_own_and_powers_off() {
    let scratch = scratch();
    let disk = ext4(&scratch, "disk");
    Coracle::run()
        .args([
            "--cpus",
            "2",
            "--disk",
            &format!("{},id=demonstration", disk.display()),
        ])
        .end()
        .assert_powered_off()
        .assert_prints("Coracle guest: Linux ")
        .assert_prints("2 online")
        .assert_prints(
            "disk     /dev/vda: 4194304 bytes written, flushed, read back from the disk: identical",
        )
        .assert_prints("Powering off.");
    assert_clean(&disk);
}

fn the_demonstration_only_reads_any_other_disk() {
    let scratch = scratch();
    let disk = ext4(&scratch, "disk");
    Coracle::run()
        .args(["--disk", disk.to_str().unwrap()])
        .end()
        .assert_powered_off()
        .assert_prints("disk     /dev/vda: 4194304 bytes read\n");
    let original = fs::read(place::guest_images().join("disk.ext4")).unwrap();
    assert!(fs::read(&disk).unwrap() == original, "the image changed");
}

fn a_full_disk_of_the_demonstrations_is_read() {
    let scratch = scratch();
    // Too small for what the demonstration writes.
    let disk = sparse(&scratch, "disk", 3 << 20);
    run("/sbin/mke2fs", &["-q", "-t", "ext4", disk.to_str().unwrap()]).unwrap();
    Coracle::run()
        .args(["--disk", &format!("{},id=demonstration", disk.display())])
        .end()
        .assert_powered_off()
        .assert_prints("disk     /dev/vda is full: 3145728 bytes read\n");
    assert_clean(&disk);
}

fn the_demonstration_says_that_there_is_no_disk() {
    let finished = Coracle::run().end();
    finished
        .assert_powered_off()
        .assert_prints("disk     none")
        .assert_prints("Powering off.");
}

/// What the README says that the guest prints, in a shell and as the demonstration. `...` stands for anything.
fn readmes_samples() -> Vec<Vec<&'static str>> {
    let lines = include_str!("../../../README.md").lines();
    let mut samples: Vec<Vec<&str>> = Vec::new();
    let mut is_inside = false;
    for line in lines {
        let shown = line.strip_prefix("    ");
        let begins = shown.is_some_and(|line| line.starts_with("Coracle guest: Linux "));
        if begins {
            samples.push(Vec::new());
        }
        is_inside = begins || is_inside && shown.is_some();
        if let (true, Some(sample), Some(line)) = (is_inside, samples.last_mut(), shown) {
            sample.push(line);
        }
    }
    samples
}

/// The line with a `#` in place of each number.
fn without_numbers(line: &str) -> String {
    let mut text = String::new();
    for character in line.chars() {
        match character {
            '0'..='9' if text.ends_with('#') => {}
            '0'..='9' => text.push('#'),
            other => text.push(other),
        }
    }
    text
}

/// Asserts that the guest printed this sample. Numbers may be others, but for the kernel's version without its last part,
/// which is that of the day on which the kernel was built.
fn assert_shows(finished: &Finished, sample: &[&str]) {
    let console = finished.console();
    let (series, _) = sample[0].rsplit_once('.').unwrap();
    assert!(console.starts_with(series), "{series:?} is not first\n{finished}");
    let console = without_numbers(&console);
    let mut rest = console.as_str();
    let mut may_skip = false;
    for line in sample {
        let begin = without_numbers(line.trim_end_matches("..."));
        let at = rest.find(&begin);
        assert!(
            at == Some(0) || at.is_some() && may_skip,
            "{line:?} is not next\n{finished}"
        );
        may_skip = *line == "...";
        if !may_skip {
            rest = rest[at.unwrap_or(0)..]
                .split_once('\n')
                .map_or("", |(_, rest)| rest);
        }
    }
}

fn the_readme_shows_what_the_guest_prints() {
    let samples = readmes_samples();
    let [shell, demonstration] = samples.as_slice() else {
        panic!("{samples:?}");
    };
    let mut run = Coracle::run().on_terminal().start();
    run.wait_for(shell.last().unwrap());
    run.type_in("exit\r");
    assert_shows(&run.end(), shell);
    let scratch = scratch();
    let disk = ext4(&scratch, "disk");
    let finished = Coracle::run()
        .args(["--disk", &format!("{},id=demonstration", disk.display())])
        .end();
    assert_shows(&finished, demonstration);
}

fn a_command_after_two_dashes_is_what_the_guest_runs() {
    Coracle::run()
        .args(["--cmdline", "quiet -- uname -s -m"])
        .end()
        .assert_powered_off()
        .assert_prints("Linux x86_64\n");
}

/// A disk with the static busybox of the built-in guest, under these names.
fn root_disk(scratch: &TempDir, names: &[&str]) -> PathBuf {
    let disk = ext4(scratch, "root");
    let script = format!(
        "mkdir -p /mnt; mount /dev/vda /mnt; cd /mnt; mkdir -p sbin bin dev proc sys run; cp /bin/busybox bin/; \
         for name in {}; do ln -s /bin/busybox $name; done; echo the root of the disk >marker",
        names.join(" ")
    );
    Coracle::run()
        .args(["--disk", disk.to_str().unwrap()])
        .script(&script)
        .end()
        .assert_powered_off();
    disk
}

fn a_command_runs_in_the_root_that_is_named() {
    let scratch = scratch();
    let disk = root_disk(&scratch, &["bin/sh", "bin/cat", "bin/touch"]);
    let disk = disk.to_str().unwrap();
    for (root, written) in [
        ("root=/dev/vda", "it cannot be written\n"),
        ("root=LABEL=coracle rw", "it is written\n"),
        (
            "root=UUID=c0c0ac1e-0000-4000-8000-000000000001 rw rootfstype=ext4",
            "it is written\n",
        ),
    ] {
        let script = "cat /marker; touch /new && echo it is written || echo it cannot be written; ls /proc/self >/dev/null && echo proc";
        Coracle::run()
            .args(["--disk", disk, "--cmdline"])
            .args([format!("{root} -- /bin/busybox sh -c \"{script}\"")])
            .end()
            .assert_powered_off()
            .assert_prints("the root of the disk\n")
            .assert_prints(written);
    }
    assert_clean(Path::new(disk));
}

fn the_roots_own_init_is_run_in_place_of_the_built_in_one() {
    let scratch = scratch();
    let disk = root_disk(&scratch, &["sbin/init", "bin/echo", "bin/sh", "bin/poweroff"]);
    let disk = disk.to_str().unwrap();
    // busybox's init says so when there is no inittab for it, and its shell reads the console.
    let mut running = Coracle::run()
        .args(["--disk", disk, "--cmdline", "root=/dev/vda"])
        .with_input()
        .start();
    running.wait_for("Please press Enter to activate this console.");
    running.type_in("\n");
    running.wait_for("/ #");
    running
        .type_in("/bin/busybox cat /marker; /bin/busybox readlink /proc/1/exe; /bin/busybox poweroff -f\n");
    running
        .end()
        .assert_powered_off()
        .assert_prints("the root of the disk\n");
    // A program that is asked for is PID 1: the machine ends with it.
    Coracle::run()
        .args([
            "--disk",
            disk,
            "--cmdline",
            "root=/dev/vda init=/bin/echo -- I am init",
        ])
        .end()
        .assert_code(105)
        .assert_prints("I am init\n")
        .assert_explains("init died: exit status 0\n");
}

fn a_root_that_is_not_there_is_told() {
    let scratch = scratch();
    let disk = ext4(&scratch, "disk");
    Coracle::run()
        .args(["--cmdline", "root=/dev/vda"])
        .end()
        .assert_code(103)
        .assert_explains("likely: there is no root device /dev/vda; there is no disk at all (--disk FILE)\n");
    let disk = disk.to_str().unwrap();
    // The kernel itself looks for the root here, and has the same exit code.
    let kernel = place::guest_images().join("vmlinux");
    Coracle::run()
        .args([
            "--kernel",
            kernel.to_str().unwrap(),
            "--disk",
            disk,
            "--cmdline",
            "root=/dev/vdb",
        ])
        .end()
        .assert_code(103)
        .assert_explains("likely: the kernel has no device /dev/vdb; it has vda\n");
    Coracle::run()
        .args(["--disk", disk, "--cmdline", "root=/dev/vdb"])
        .end()
        .assert_code(103)
        .assert_explains("likely: there is no root device /dev/vdb; there are /dev/vda\n");
    Coracle::run()
        .args(["--disk", disk, "--cmdline", "root=/dev/vda"])
        .end()
        .assert_code(104)
        .assert_explains("likely: the root has none of /sbin/init, /etc/init, /bin/init, /bin/sh\n");
}

/// The built-in kernel looks for the entropy device only once init runs.
fn the_entropy_device_gives_random_bytes() {
    let script = "current=/sys/class/misc/hw_random/rng_current; \
                  until grep -qs virtio $current; do sleep 0.01; done; \
                  echo source $(cat $current), $(dd if=/dev/hwrng bs=1000 count=3 | wc -c) bytes; \
                  sum() { head -c 64 /dev/hwrng | sha256sum | cut -c 1-64; }; \
                  [ $(sum) != $(sum) ] && echo they differ; \
                  echo interrupts $(grep virtio /proc/interrupts | wc -l)";
    Coracle::run()
        .script(script)
        .end()
        .assert_powered_off()
        .assert_prints("source virtio_rng.0, 3000 bytes\n")
        .assert_prints("they differ\n")
        .assert_prints("interrupts 1\n");
}

fn what_the_boot_leaves_out_starts_when_a_program_asks_for_it() {
    // A socket, a device, a file system and a kind of network device, each the first that its guest asks for.
    let asks = [
        "ping -c 1 127.0.0.1",
        "true </dev/net/tun",
        "mount -t squashfs /dev/zero /mnt",
        "ip link add bridge0 type bridge",
    ];
    for ask in asks {
        let script = format!(
            "ls /proc/net/tcp; {ask}; echo asked; ip link set lo up; ls /proc/net/tcp; grep -w squashfs /proc/filesystems; \
             ip link add bridge1 type bridge && ip link set bridge1 up && ping -c 1 ::1; echo is $?"
        );
        let console = Coracle::run()
            .script(&script)
            .end()
            .assert_powered_off()
            .assert_prints("1 packets received")
            .assert_prints("is 0")
            .console();
        let (before, after) = console.split_once("asked").unwrap();
        assert!(before.contains("/proc/net/tcp: No such file"), "{console}");
        assert!(after.contains("\n/proc/net/tcp\n"), "{console}");
        assert!(after.contains("squashfs\n"), "{console}");
    }
}

fn verbose_messages_are_on_stderr_alone() {
    let finished = Coracle::run().args(["-v"]).script("echo the guest speaks").end();
    finished.assert_code(0).assert_prints("the guest speaks\n");
    assert!(
        finished.stderr.contains("coracle: "),
        "nothing is said\n{finished}"
    );
    assert!(
        !finished.console().contains("coracle: "),
        "stdout is the guest's alone\n{finished}"
    );
}
