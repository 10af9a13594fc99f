//! Disks: what the guest writes is in the image on the host, and read-only images do not change.

use std::fs;

use crate::images::{assert_clean, ext4, file_on, noise, raw, scratch, sparse};
use crate::place;
use crate::run::Coracle;

crate::group!["disks":
    what_the_guest_writes_is_whole_on_the_host_after_power_off,
    several_disks_are_seen_in_order_with_their_ids,
    a_read_only_disk_stays_as_it_is_whatever_the_guest_does,
    the_built_in_kernel_reads_a_pcs_partition_table,
];

fn what_the_guest_writes_is_whole_on_the_host_after_power_off() {
    let scratch = scratch();
    let disk = ext4(&scratch, "disk");
    let content = noise(5, if place::is_full() { 8 << 20 } else { 1 << 20 });
    let source = raw(&scratch, "source", &content);
    Coracle::run()
        .args(["--disk", disk.to_str().unwrap()])
        .args(["--disk", &format!("{},ro", source.display())])
        .script("mkdir -p /mnt; mount /dev/vda /mnt && cat /dev/vdb >/mnt/copy && sync && echo written")
        .end()
        .assert_powered_off()
        .assert_prints("written\n");
    assert_clean(&disk);
    assert!(file_on(&disk, "copy") == content, "the file's content differs");
}

fn several_disks_are_seen_in_order_with_their_ids() {
    let scratch = scratch();
    let mut coracle = Coracle::run();
    let mut expected = String::new();
    for (index, letter) in ('a'..='e').enumerate() {
        // Each disk has a different size in sectors, so that the guest's output tells them apart.
        let sectors = 8 * (index as u64 + 1);
        let image = sparse(&scratch, &format!("image-{letter}"), sectors * 512);
        let id = format!("the-{letter}-of-20-charact");
        coracle = coracle.args(["--disk", &format!("{},id={id}", image.display())]);
        expected += &format!("vd{letter} {sectors} {id}\n");
    }
    let no_id = sparse(&scratch, "no-id", 4096 * 512);
    coracle
        .args(["--disk", no_id.to_str().unwrap()])
        .script("cd /sys/block; for disk in vd*; do echo $disk $(cat $disk/size $disk/serial); done")
        .end()
        .assert_powered_off()
        .assert_prints(&expected)
        .assert_prints("vdf 4096\n");
}

fn a_read_only_disk_stays_as_it_is_whatever_the_guest_does() {
    let scratch = scratch();
    let disk = ext4(&scratch, "disk");
    let overwrite = "dd if=/dev/zero of=/dev/vda bs=4096 count=16 conv=fsync";
    // busybox's mount falls back to a read-only mount if the disk cannot be written.
    let script = format!(
        "mkdir -p /mnt; echo read-only $(cat /sys/block/vda/ro); {overwrite} || echo write refused; \
         mount -t ext4 -o rw /dev/vda /mnt; cat /mnt/README >/dev/null && echo readable; \
         touch /mnt/new || echo file refused; mount -o remount,rw /mnt || echo remount refused; umount /mnt; \
         blockdev --setrw /dev/vda; {overwrite} || echo second write refused; exit 0"
    );
    Coracle::run()
        .args(["--disk", &format!("{},ro", disk.display())])
        .script(&script)
        .end()
        .assert_powered_off()
        .assert_prints("read-only 1\n")
        .assert_prints("\nwrite refused\n")
        .assert_prints("\nreadable\n")
        .assert_prints("\nfile refused\n")
        .assert_prints("\nremount refused\n")
        .assert_prints("\nsecond write refused\n");
    let original = fs::read(place::guest_images().join("disk.ext4")).unwrap();
    assert!(fs::read(&disk).unwrap() == original, "the image changed");
}

/// An MBR with a primary partition and an extended one, and in that a logical one.
fn the_built_in_kernel_reads_a_pcs_partition_table() {
    const SECTOR: usize = 512;
    const LINUX: u8 = 0x83;
    const EXTENDED: u8 = 0x05;
    let scratch = scratch();
    let mut disk = vec![0; 8 << 20];
    let table = |disk: &mut [u8], sector: usize, entries: &[(u8, u32, u32)]| {
        let table = &mut disk[sector * SECTOR..][..SECTOR];
        for (entry, (kind, start, length)) in table[0x1be..0x1fe].chunks_mut(16).zip(entries) {
            entry[4] = *kind;
            entry[8..12].copy_from_slice(&start.to_le_bytes());
            entry[12..].copy_from_slice(&length.to_le_bytes());
        }
        table[0x1fe..].copy_from_slice(&[0x55, 0xaa]);
    };
    table(&mut disk, 0, &[(LINUX, 2048, 4096), (EXTENDED, 8192, 4096)]);
    table(&mut disk, 8192, &[(LINUX, 64, 2048)]);
    let mark = |sector: usize, text: &[u8]| (sector * SECTOR, text.to_vec());
    for (at, text) in [
        mark(2048, b"the primary one\n"),
        mark(8192 + 64, b"the logical one\n"),
    ] {
        disk[at..at + text.len()].copy_from_slice(&text);
    }
    let disk = raw(&scratch, "disk", &disk);
    Coracle::run()
        .args(["--disk", disk.to_str().unwrap()])
        .script("grep -o vda.* /proc/partitions; head -n 1 /dev/vda1; head -n 1 /dev/vda5")
        .end()
        .assert_powered_off()
        .assert_prints("vda\nvda1\nvda2\nvda5\nthe primary one\nthe logical one\n");
}
