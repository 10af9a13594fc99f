use super::*;
use crate::diagnosis::console;

fn facts(command_line: &str) -> Facts {
    Facts {
        memory_mib: 128,
        has_disk: true,
        command_line: command_line.into(),
        ..Facts::default()
    }
}

/// What a kernel with these disks prints when it cannot open its root device.
fn not_opened(name: &str, block: &str, error: u32, devices: &str) -> (Vec<String>, String) {
    let text = format!(
        "VFS: Cannot open root device \"{name}\" or unknown-block({block}): error -{error}\n\
         Please append a correct \"root=\" boot option; here are the available partitions:\n{devices}"
    );
    let message = format!("VFS: Unable to mount root fs on unknown-block({block})");
    (console::lines(text.as_bytes()), message)
}

/// What it prints when no file system takes the device.
fn not_taken(block: &str, devices: &str, tried: &str) -> (Vec<String>, String) {
    let text = format!("List of all partitions:\n{devices}No filesystem could mount root, tried: {tried}\n");
    let message = format!("VFS: Unable to mount root fs on unknown-block({block})");
    (console::lines(text.as_bytes()), message)
}

const VDA: &str = "fe00           65536 vda \n driver: virtio_blk\n";
const PARTITIONED: &str = "fe00           65536 vda \n driver: virtio_blk\n  fe01            1024 vda1 1234-01\n\
                           \n  fe02            2048 vda2 1234-02\n\nfe10 4096 vdb\n driver: virtio_blk\n";

fn explained((lines, message): &(Vec<String>, String), facts: &Facts) -> String {
    let root = Root::read(lines, message);
    let (cause, next) = root.explain(facts);
    format!("{}: {cause}; try {next}", root.summary())
}

#[track_caller]
fn assert_tells(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[test]
fn each_error_of_mounting_has_its_cause() {
    for (error, parts) in [
        (30, ["the disk is read-only", "`ephemeral`"]),
        (5, ["cannot be read", "fsck -n"]),
        (12, ["not enough memory", "--memory 256M"]),
        (16, ["in use", "another device"]),
        (19, ["rootfstype=", "built in"]),
        (117, ["damaged", "`fsck`"]),
        (74, ["damaged", "`fsck`"]),
        (2, ["gave error 2", "fsck -n"]),
        (95, ["gave error 95", "fsck -n"]),
    ] {
        let text = explained(&not_opened("vda", "254,0", error, VDA), &facts("root=/dev/vda"));
        assert_tells(&text, &parts);
        assert_tells(&text, &["the root file system cannot be mounted: "]);
        assert!(!text.contains("no device"), "{text}");
    }
}

#[test]
fn a_device_whose_name_a_shell_would_act_on_is_not_in_the_advice() {
    for name in ["vda;reboot", "$(reboot)", "`reboot`", "'reboot'", "vda&reboot"] {
        let devices = format!("fe00 65536 {name}\n driver: virtio_blk\n");
        let text = explained(&not_opened("vdb", "0,0", 6, &devices), &facts("root=/dev/vdb"));
        assert!(!text.contains("reboot"), "{text}");
    }
}

#[test]
fn a_journal_that_cannot_be_replayed_is_told_from_a_disk_that_is_read_only() {
    let (mut lines, message) = not_opened("vda", "254,0", 30, VDA);
    lines.insert(
        0,
        "EXT4-fs (vda): INFO: recovery required on readonly filesystem".into(),
    );
    let text = explained(&(lines, message), &facts("root=/dev/vda"));
    assert_tells(
        &text,
        &["its journal must be written", "`ephemeral` in place of `ro`"],
    );
}

#[test]
fn a_name_that_the_kernel_does_not_know_is_told_with_those_that_it_knows() {
    for error in [2, 6] {
        let opened = not_opened("sda1", "0,0", error, PARTITIONED);
        let text = explained(&opened, &facts("root=/dev/sda1"));
        assert_tells(
            &text,
            &[
                "no root device: ",
                "no device /dev/sda1; it has vda, vda1, vda2, vdb",
                "root=/dev/vda",
            ],
        );
    }
}

#[test]
fn a_number_behind_which_is_nothing_is_no_device() {
    let text = explained(&not_opened("0801", "8,1", 6, VDA), &facts("root=0801"));
    assert_tells(&text, &["no root device: ", "no device 0801; it has vda"]);
}

#[test]
fn a_kernel_without_any_device_lacks_the_driver() {
    let text = explained(&not_opened("vda", "0,0", 6, ""), &facts("root=/dev/vda"));
    assert_tells(
        &text,
        &["no device /dev/vda: it lacks the driver", "CONFIG_VIRTIO_BLK=y"],
    );
}

#[test]
fn what_only_an_initrd_can_find_is_told_so() {
    for root in ["UUID=1234", "LABEL=root"] {
        let text = explained(&not_opened(root, "0,0", 6, VDA), &facts(&format!("root={root}")));
        assert_tells(
            &text,
            &["only an initrd", "--cmdline root=/dev/vda or root=PARTUUID="],
        );
    }
}

#[test]
fn a_kernel_that_tried_all_its_file_systems_on_nothing_has_no_device() {
    let none = not_taken("0,0", "", "");
    let no_disk = Facts {
        has_disk: false,
        ..facts("console=ttyS0")
    };
    assert_tells(
        &explained(&none, &no_disk),
        &["no root device: no disk was given and no initrd"],
    );
    let text = explained(&not_taken("0,0", VDA, ""), &facts("console=ttyS0"));
    assert_tells(&text, &["names no root device", "--cmdline root=/dev/vda"]);
}

#[test]
fn a_disk_that_no_file_system_takes_is_told_with_those_that_were_tried() {
    for tried in ["\n ext3\n ext4", " ext3 ext4"] {
        let text = explained(&not_taken("254,0", VDA, tried), &facts("root=/dev/vda"));
        assert_tells(
            &text,
            &[
                "cannot be mounted: ",
                "none of the kernel's file systems (ext3, ext4)",
            ],
        );
    }
}

#[test]
fn a_whole_disk_as_root_is_told_its_partitions() {
    let text = explained(&not_taken("254,0", PARTITIONED, " ext4"), &facts("root=/dev/vda"));
    assert_tells(
        &text,
        &[
            "/dev/vda is a disk with partitions: vda1, vda2;",
            "root=/dev/vda1",
        ],
    );
    assert!(!text.contains("vdb"), "{text}");
}

#[test]
fn a_long_list_of_devices_is_cut() {
    let devices: String = (b'a'..=b'z')
        .map(|letter| format!("fe00 1 vd{}\n", letter as char))
        .collect();
    let text = explained(&not_opened("x", "0,0", 6, &devices), &facts("root=/dev/x"));
    assert_tells(&text, &["it has vda, vdb, vdc, vdd, vde, vdf, ...;"]);
}
