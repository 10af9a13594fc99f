//! Every format of a kernel that Coracle knows, and a distribution's kernel as it is shipped.

use crate::images::{assert_clean, ext4, file_on, scratch};
use crate::place;
use crate::run::{Coracle, Finished};

crate::group!["kernels":
    a_stock_debian_kernel_finds_its_devices_through_acpi_and_powers_off,
    a_stock_debian_kernel_without_acpi_uses_the_old_interrupt_controller_and_ends,
    a_bzimage_of_gzip_boots_to_init,
    a_bzimage_of_xz_boots_to_init,
    a_bzimage_of_zstd_boots_to_init,
    a_bzimage_of_lz4_boots_to_init,
    a_bzimage_of_lzma_boots_to_init,
    a_bzimage_of_bzip2_boots_to_init,
    an_elf_with_a_pvh_note_boots_to_init,
    an_elf_without_a_pvh_note_boots_to_init,
];

/// A kernel that KASLR has moved.
#[track_caller]
fn assert_is_where_the_log_says(finished: &Finished) {
    /// Where its code is in its file.
    const UNMOVED: u64 = 0xffff_ffff_8100_0000;
    let moved = finished.stderr.lines().find_map(|line| {
        let (_, behind) = line.split_once("virtual addresses are 0x")?;
        u64::from_str_radix(behind.split(' ').next()?, 16).ok()
    });
    let moved = moved.unwrap_or_else(|| panic!("the kernel was not moved: {finished}"));
    finished.assert_prints(&format!("\n{:x} T _text\n", UNMOVED + moved));
}

/// Its virtio drivers are modules, and it knows no `virtio_mmio.device=`: ACPI is the only way to the disk
/// and to the entropy device. That it powers off shows the sleep registers.
fn a_stock_debian_kernel_finds_its_devices_through_acpi_and_powers_off() {
    let scratch = scratch();
    let disk = ext4(&scratch, "disk");
    let readme = file_on(&disk, "README");
    let finished = Coracle::run()
        .args(["-v"])
        .args(["--kernel".as_ref(), place::stock().join("vmlinuz").as_os_str()])
        .args([
            "--initrd".as_ref(),
            place::stock().join("stock-initrd").as_os_str(),
        ])
        .args([
            "--cpus",
            "2",
            "--memory",
            "512M",
            "--disk",
            disk.to_str().unwrap(),
        ])
        .args(["--cmdline", place::STOCK_QUICKLY])
        .end();
    assert_is_where_the_log_says(&finished);
    finished
        .assert_code(0)
        .assert_prints("\n2\n")
        .assert_prints("entropy from virtio_rng.0: 64 bytes\n")
        .assert_prints(" vda\n")
        .assert_prints(&String::from_utf8(readme).unwrap());
    assert_clean(&disk);
    assert_eq!(file_on(&disk, "from-stock"), b"written by the stock kernel\n");
}

/// The kernel of the newer series. What init prints arrives only if the serial driver gets its interrupts. Without ACPI this kernel finds neither the
/// disk nor the power-off register, and halts. Without the tables that say what is there, its drivers for a keyboard controller and a
/// clock would look for them for seconds.
fn a_stock_debian_kernel_without_acpi_uses_the_old_interrupt_controller_and_ends() {
    let ways = if place::is_full() {
        &["noapic", ""][..]
    } else {
        &["noapic"]
    };
    for interrupts in ways {
        let parameters = format!(
            "{},i8042_init,cmos_init acpi=off {interrupts}",
            place::STOCK_QUICKLY
        );
        let finished = Coracle::run()
            .args(["-v"])
            .args([
                "--kernel".as_ref(),
                place::newer_stock().join("vmlinuz").as_os_str(),
            ])
            .args([
                "--initrd".as_ref(),
                place::newer_stock().join("stock-initrd").as_os_str(),
            ])
            .args(["--cpus", "2", "--memory", "256M", "--cmdline", &parameters])
            .end();
        assert_is_where_the_log_says(&finished);
        finished
            .assert_code(0)
            .assert_prints("stock-init: no /dev/vda")
            .assert_explains(
                "coracle: the guest has shut down and halted: it could not switch its power off\n",
            )
            .assert_explains("acpi=off");
    }
}

fn a_bzimage_of_gzip_boots_to_init() {
    boots("bzImage-gzip", "gzip");
}

fn a_bzimage_of_xz_boots_to_init() {
    boots("bzImage-xz", "xz");
}

fn a_bzimage_of_zstd_boots_to_init() {
    boots("bzImage-zstd", "zstd");
}

fn a_bzimage_of_lz4_boots_to_init() {
    boots("bzImage-lz4", "lz4");
}

fn a_bzimage_of_lzma_boots_to_init() {
    boots("bzImage-lzma", "lzma");
}

fn a_bzimage_of_bzip2_boots_to_init() {
    boots("bzImage-bzip2", "bzip2");
}

fn an_elf_with_a_pvh_note_boots_to_init() {
    boots("vmlinux", "PVH entry");
}

fn an_elf_without_a_pvh_note_boots_to_init() {
    boots("vmlinux-nopvh", "64-bit Linux entry");
}

/// `told` is what a dry run says about the kernel.
fn boots(kernel: &str, told: &str) {
    let images = place::guest_images();
    let kernel = images.join(kernel);
    let run = || {
        Coracle::run()
            .args(["--kernel".as_ref(), kernel.as_os_str()])
            .args(["--initrd".as_ref(), images.join("initrd").as_os_str()])
    };
    run().args(["--dry-run"]).end().assert_code(0).assert_prints(told);
    run()
        .args([
            "--cmdline",
            "quiet -- sh -c \"cat /proc/version; echo init runs\"",
        ])
        .end()
        .assert_powered_off()
        .assert_prints("Linux version ")
        .assert_prints("init runs\n");
}
