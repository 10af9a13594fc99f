use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::queue::{IN, Queue};
use crate::support::{Coracle, Kernel, Running, need_kvm};

guest!(
    count_boots_on_disk,
    "
    start_disk
    mov dword ptr [rbx + 0x50], 0
2:
    cmp word ptr [0x302002], 1
    jne 2b
    mov al, [0x304000]
    mov edx, 0x3f8
    out dx, al
    say \" boots\\n\"
    # The same request again, as a write of one more.
    inc byte ptr [0x304000]
    mov dword ptr [0x303000], 1
    mov word ptr [0x30001c], 1
    mov word ptr [0x301002], 2
    mov dword ptr [rbx + 0x50], 0
3:
    cmp word ptr [0x302002], 2
    jne 3b
    request_to_send
    mov ebx, 1
    echo_input
    reset
"
);

guest!(
    be_another_kernel,
    "
    say \"another kernel\\n\"
    power_off
"
);

fn kernel() -> Kernel {
    count_boots_on_disk().data(Queue::request(IN, 0, &[])).linux64()
}

/// A disk on which no boot is counted yet.
const FRESH: [u8; 4096] = [b'0'; 4096];

fn run(kernel: &Kernel, disk: &str) -> Running {
    Coracle::run(kernel)
        .args(&["--on-reboot", "restart", "--disk", disk])
        .keyboard()
        .start()
}

#[test]
fn an_ephemeral_disk_keeps_what_was_written_over_a_reboot_and_no_longer() {
    need_kvm();
    let disk = tempfile::NamedTempFile::new().unwrap();
    fs::write(disk.path(), FRESH).unwrap();
    let option = format!("{},ephemeral", disk.path().display());
    for _ in 0..2 {
        let mut running = run(&kernel(), &option);
        for boots in ["0 boots\n", "1 boots\n", "2 boots\n"] {
            running.wait_for(boots);
            running.type_in(b"x");
        }
        running.signal(libc::SIGTERM);
        running.end().with_code(143);
        assert_eq!(fs::read(disk.path()).unwrap(), FRESH);
    }
}

#[test]
fn a_reboot_keeps_the_files_that_were_opened_and_their_locks() {
    need_kvm();
    let folder = tempfile::tempdir().unwrap();
    let path = |name| folder.path().join(name).display().to_string();
    let (disk, kept) = (path("disk.img"), path("kept.img"));
    fs::write(&disk, FRESH).unwrap();
    fs::hard_link(&disk, &kept).unwrap();
    let kernel = kernel();
    let mut running = run(&kernel, &disk);
    running.wait_for("0 boots\n");

    // Other files in the place of those that were named.
    let (other_disk, other_kernel) = (path("other.img"), path("other"));
    fs::write(&other_disk, [b'7'; 4096]).unwrap();
    fs::copy(be_another_kernel().linux64().path(), &other_kernel).unwrap();
    fs::rename(&other_disk, &disk).unwrap();
    fs::rename(&other_kernel, kernel.path()).unwrap();

    running.type_in(b"x");
    running.wait_for("1 boots\n");
    Coracle::run(&be_another_kernel().linux64())
        .args(&["--disk", &kept])
        .end()
        .with_code(125)
        .saying(&["kept.img", "in use"]);
    running.type_in(b"x");
    running.wait_for("2 boots\n");
    running.signal(libc::SIGTERM);
    running.end().with_code(143);
    assert_eq!(fs::read(&disk).unwrap(), [b'7'; 4096]);
}

#[test]
fn a_reboot_keeps_the_data_file_that_was_opened_and_its_lock() {
    need_kvm();
    let folder = tempfile::tempdir().unwrap();
    let path = |name| folder.path().join(name).display().to_string();
    let (image, data, kept) = (path("image.qcow2"), path("data.img"), path("kept.img"));
    let qemu_img = |arguments: &[&str]| {
        let output = Command::new("qemu-img").args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    };
    let options = format!("data_file={data},preallocation=metadata");
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", &options, &image, "4K"]);
    fs::write(&data, FRESH).unwrap();
    fs::hard_link(&data, &kept).unwrap();
    let mut running = run(&kernel(), &format!("{image},data={data}"));
    running.wait_for("0 boots\n");

    // Another file in the place of the one that was named.
    let other = path("other.img");
    fs::write(&other, [b'7'; 4096]).unwrap();
    fs::rename(&other, &data).unwrap();

    running.type_in(b"x");
    running.wait_for("1 boots\n");
    Coracle::run(&be_another_kernel().linux64())
        .args(&["--disk", &kept])
        .end()
        .with_code(125)
        .saying(&["kept.img", "in use"]);
    running.type_in(b"x");
    running.wait_for("2 boots\n");
    running.signal(libc::SIGTERM);
    running.end().with_code(143);
    assert_eq!(fs::read(&data).unwrap(), [b'7'; 4096]);
    // The third boot was stopped before or after its write.
    assert!(
        [*b"20", *b"30"]
            .iter()
            .any(|start| fs::read(&kept).unwrap().starts_with(start))
    );
    qemu_img(&["check", "-q", "-f", "qcow2", &image]);
}

guest!(
    echo_once_and_reset,
    "
    request_to_send
    mov ebx, 1
    echo_input
    reset
"
);

/// Waits for a vCPU's thread that is not `known`, and gives its number.
fn wait_for_another_vcpu(process: u32, known: Option<u32>) -> Option<u32> {
    let deadline = Instant::now() + Duration::from_secs(60);
    // Nothing tells that a boot has begun but asking.
    loop {
        let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten();
        let is_vcpu = |thread: &fs::DirEntry| {
            fs::read_to_string(thread.path().join("comm")).is_ok_and(|name| name.trim() == "vcpu-0")
        };
        let number = |thread: fs::DirEntry| thread.file_name().to_str()?.parse().ok();
        let vcpu = threads.filter(is_vcpu).find_map(number);
        if vcpu.is_some() && vcpu != known {
            return vcpu;
        }
        assert!(Instant::now() < deadline, "no boot begins");
        thread::yield_now();
    }
}

#[test]
fn a_signal_in_a_restart_loop_is_not_told_that_nothing_was_printed() {
    need_kvm();
    let mut running = Coracle::run(&echo_once_and_reset().linux64())
        .args(&["--on-reboot", "restart"])
        .keyboard()
        .start();
    let first = wait_for_another_vcpu(running.id(), None);
    running.type_in(b"x");
    running.wait_for("x");
    // The second boot waits for input, and prints nothing.
    wait_for_another_vcpu(running.id(), first);
    running.signal(libc::SIGTERM);
    let ended = running.end().with_code(143).saying(&["SIGTERM"]);
    assert!(!ended.stderr.contains("nothing"), "{}", ended.describe());
}

guest!(
    break_a_device_and_reset,
    "
    break_disk
    say \"boot\\n\"
    reset
"
);

#[test]
fn a_guest_that_boots_again_and_again_does_not_flood_the_log() {
    const BOOTS: usize = 150;
    need_kvm();
    let mut running = Coracle::run(&break_a_device_and_reset().linux64())
        .args(&["--on-reboot", "restart"])
        .start();
    running.wait_for(&"boot\n".repeat(BOOTS));
    running.signal(libc::SIGTERM);
    let ended = running
        .end()
        .with_code(143)
        .saying(&["this device logs further messages at level debug"]);
    // What is logged of a device does not begin anew with each boot, so other devices have lines left.
    let lines = ended.stderr.matches("the driver must reset it").count();
    assert_eq!(lines, 16, "{}", ended.describe());
}

#[test]
fn a_reboot_opens_nothing() {
    need_kvm();
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk.img");
    fs::write(&disk, FRESH).unwrap();
    let mut running = Coracle::run(&kernel())
        .through(&["unshare", "--mount"])
        // Confined, it would have no files to hide.
        .args(&["--confine", "off", "--on-reboot", "restart", "--disk"])
        .args(&[&format!("{},ephemeral", disk.display())])
        .keyboard()
        .start();
    running.wait_for("0 boots\n");
    // From here on there is no file that could be opened, for this process only.
    let hidden = "for place in /dev /sys /tmp /var /proc; do mount -t tmpfs none $place || exit 1; done";
    let hide = Command::new("nsenter")
        .args([
            "--target",
            &running.id().to_string(),
            "--mount",
            "sh",
            "-c",
            hidden,
        ])
        .output()
        .unwrap();
    assert!(hide.status.success(), "{hide:?}");
    for boots in ["1 boots\n", "2 boots\n"] {
        running.type_in(b"x");
        running.wait_for(boots);
    }
    running.signal(libc::SIGTERM);
    running.end().with_code(143);
}
