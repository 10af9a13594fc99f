//! The built-in guest, and what Coracle prints beside it.

use crate::images::{ext4, scratch};
use crate::place;
use crate::run::Coracle;

crate::group!["guest":
    the_doctor_is_content_where_linux_boots,
    the_demonstration_writes_a_disk_and_powers_off,
    the_demonstration_says_that_there_is_no_disk,
    a_command_after_two_dashes_is_what_the_guest_runs,
    the_entropy_device_gives_random_bytes,
    verbose_messages_are_on_stderr_alone,
];

fn the_doctor_is_content_where_linux_boots() {
    Coracle::program(place::coracle())
        .args(["doctor"])
        .end()
        .assert_code(0);
}

fn the_demonstration_writes_a_disk_and_powers_off() {
    let scratch = scratch();
    let disk = ext4(&scratch, "disk");
    Coracle::run()
        .args(["--cpus", "2", "--disk", disk.to_str().unwrap()])
        .end()
        .assert_powered_off()
        .assert_prints("Coracle guest: Linux ")
        .assert_prints("2 online")
        .assert_prints("read back from the disk: identical")
        .assert_prints("Powering off.");
}

fn the_demonstration_says_that_there_is_no_disk() {
    let finished = Coracle::run().end();
    finished
        .assert_powered_off()
        .assert_prints("disk     none")
        .assert_prints("Powering off.");
}

fn a_command_after_two_dashes_is_what_the_guest_runs() {
    Coracle::run()
        .args(["--cmdline", "quiet -- uname -s -m"])
        .end()
        .assert_powered_off()
        .assert_prints("Linux x86_64\n");
}

/// The built-in kernel looks for it once init runs.
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
