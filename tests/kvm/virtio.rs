use std::io::Write;
use std::process::Command;

use tempfile::NamedTempFile;

use crate::support::queue::{self, Queue};
use crate::support::{Coracle, need_kvm, u32_at};

guest!(
    identify,
    "
    mov ebx, 0xd0000000
    mov eax, [rbx]
    mov [0x200000], eax
    mov eax, [rbx + 4]
    mov [0x200004], eax
    mov eax, [rbx + 8]
    mov [0x200008], eax
    mov eax, [rbx + 0x100]
    mov [0x20000c], eax
    mov eax, [rbx + 0x104]
    mov [0x200010], eax
    # The window after it, and the one of no device.
    mov eax, [rbx + 0x1008]
    mov [0x200014], eax
    mov eax, [rbx + 0x2000]
    mov [0x200018], eax
    send 0x200000, 28
    power_off
"
);

/// A disk of 64 sectors; sector N is full of the byte N.
pub fn disk() -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    let bytes: Vec<u8> = (0..64 * 512).map(|offset| (offset / 512) as u8).collect();
    file.write_all(&bytes).unwrap();
    file
}

#[test]
fn a_disk_is_a_virtio_block_device_of_its_size_in_the_first_window() {
    need_kvm();
    let disk = disk();
    let kernel = identify().linux64();
    let ended = Coracle::run(&kernel)
        .args(&["--disk", disk.path().to_str().unwrap()])
        .end();
    let told = ended.with_code(0).in_silence().stdout;
    assert_eq!(&told[..4], b"virt");
    assert_eq!(u32_at(&told, 4), 2, "version");
    assert_eq!(u32_at(&told, 8), 2, "device ID");
    assert_eq!((u32_at(&told, 12), u32_at(&told, 16)), (64, 0), "sectors");
    assert_eq!(u32_at(&told, 20), 4, "the second device is the entropy device");
    assert_eq!(u32_at(&told, 24), u32::MAX, "no third device");
}

guest!(
    drive,
    "
    start_disk
    mov dword ptr [rbx + 0x50], 0
2:
    # Bochs 2.7 holds the host's interrupts back while a guest runs that was entered with its own switched off. This loop
    # would keep the host's only processor from serving the disk. KVM has the processor leave a guest that pauses.
    pause
    movzx eax, word ptr [0x302002]
    test eax, eax
    jz 2b
3:
    mov eax, [rbx + 0x60]
    test eax, eax
    jz 3b
    mov [0x200000], eax
    mov eax, [rbx + 0x70]
    mov [0x200004], eax
    send 0x200000, 8
    send 0x302000, 12
    send 0x305000, 1
    send 0x304000, 512
    power_off
"
);

/// What a guest sends after its request is done.
struct Reply {
    interrupt_status: u32,
    used_index: u16,
    used_length: u32,
    status: u8,
    data: Vec<u8>,
}

fn request(queue: Queue, disk: &str) -> Reply {
    let kernel = drive().data(queue).linux64();
    let told = Coracle::run(&kernel)
        .args(&["--disk", disk])
        .end()
        .with_code(0)
        .in_silence()
        .stdout;
    assert_eq!(told.len(), 8 + 12 + 1 + 512);
    assert_eq!(u32_at(&told, 4), 15, "the device stands as its driver left it");
    Reply {
        interrupt_status: u32_at(&told, 0),
        used_index: u32_at(&told, 8).to_le_bytes()[2..]
            .try_into()
            .map(u16::from_le_bytes)
            .unwrap(),
        used_length: u32_at(&told, 16),
        status: told[20],
        data: told[21..].to_vec(),
    }
}

#[test]
fn a_read_by_hand_brings_the_sector() {
    need_kvm();
    let disk = disk();
    let reply = request(Queue::request(queue::IN, 7, &[]), disk.path().to_str().unwrap());
    assert_eq!(
        (reply.status, reply.used_index, reply.used_length),
        (queue::OK, 1, 513)
    );
    assert_eq!(reply.interrupt_status, 1, "used buffer notification");
    assert_eq!(reply.data, [7; 512]);
}

#[test]
fn a_write_by_hand_reaches_the_file_and_nothing_beside_it() {
    need_kvm();
    let disk = disk();
    let mut expected = std::fs::read(disk.path()).unwrap();
    expected[9 * 512..10 * 512].fill(0xb0);
    let reply = request(
        Queue::request(queue::OUT, 9, &[0xb0; 512]),
        disk.path().to_str().unwrap(),
    );
    assert_eq!((reply.status, reply.used_length), (queue::OK, 1));
    assert!(std::fs::read(disk.path()).unwrap() == expected);
}

#[test]
fn a_write_by_hand_to_an_image_with_a_data_file_reaches_that_file() {
    need_kvm();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let qemu_img = |arguments: &[&str]| {
        let output = Command::new("qemu-img").args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    };
    let (image, data) = (path("image.qcow2"), path("data.raw"));
    let options = format!("data_file={data}");
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", &options, &image, "32K"]);
    let reply = request(
        Queue::request(queue::OUT, 9, &[0xb0; 512]),
        &format!("{image},data={data}"),
    );
    assert_eq!((reply.status, reply.used_length), (queue::OK, 1));
    let mut expected = vec![0; 32 << 10];
    expected[9 * 512..10 * 512].fill(0xb0);
    let written = std::fs::read(&data).unwrap();
    assert!(written.starts_with(&expected) && written[expected.len()..].iter().all(|byte| *byte == 0));
    qemu_img(&["check", "-q", "-f", "qcow2", &image]);
    qemu_img(&["compare", "-q", "-f", "qcow2", "-F", "raw", &image, &data]);
}

#[test]
fn a_write_to_a_read_only_disk_is_an_io_error_and_changes_nothing() {
    need_kvm();
    let disk = disk();
    let before = std::fs::read(disk.path()).unwrap();
    let name = format!("{},ro", disk.path().display());
    let reply = request(Queue::request(queue::OUT, 9, &[0xb0; 512]), &name);
    assert_eq!(reply.status, queue::IOERR);
    assert!(std::fs::read(disk.path()).unwrap() == before);
}

#[test]
fn requests_past_the_end_are_io_errors_and_change_nothing() {
    need_kvm();
    let disk = disk();
    let before = std::fs::read(disk.path()).unwrap();
    for (kind, sector) in [
        (queue::IN, 64),
        (queue::OUT, 64),
        (queue::OUT, u64::MAX),
        (queue::IN, 1 << 55),
    ] {
        let reply = request(
            Queue::request(kind, sector, &[0xb0; 512]),
            disk.path().to_str().unwrap(),
        );
        assert_eq!(reply.status, queue::IOERR, "type {kind}, sector {sector:#x}");
    }
    assert!(std::fs::read(disk.path()).unwrap() == before);
}

#[test]
fn a_write_past_the_limit_of_an_ephemeral_disk_is_an_io_error_whose_reason_is_logged() {
    need_kvm();
    let disk = disk();
    for (limit, status) in [("64K", queue::OK), ("4K", queue::IOERR)] {
        let name = format!("{},ephemeral,limit={limit}", disk.path().display());
        // A write of 8 KiB, of whatever lies there.
        let data = queue::Descriptor {
            address: queue::BUFFER,
            length: 8192,
            flags: queue::NEXT,
            next: 2,
        };
        let mut request = Queue::request(queue::OUT, 8, &[]);
        request.put_descriptor(1, data);
        let kernel = drive().data(request).linux64();
        let ended = Coracle::run(&kernel).args(&["--disk", &name]).end().with_code(0);
        assert_eq!(ended.stdout[20], status, "{limit}");
        assert_eq!(
            ended.stderr.contains("limit=SIZE"),
            status == queue::IOERR,
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn the_id_of_a_disk_is_what_its_flag_says() {
    need_kvm();
    let disk = disk();
    let name = format!("{},id=oar", disk.path().display());
    let mut asked = Queue::request(queue::GET_ID, 0, &[]);
    asked.chain(&[
        queue::Descriptor {
            address: queue::HEADER,
            length: 16,
            flags: queue::NEXT,
            next: 1,
        },
        queue::Descriptor {
            address: queue::BUFFER,
            length: 20,
            flags: queue::NEXT | queue::WRITE,
            next: 2,
        },
        queue::Descriptor {
            address: queue::STATUS,
            length: 1,
            flags: queue::WRITE,
            next: 0,
        },
    ]);
    let reply = request(asked, &name);
    assert_eq!(reply.status, queue::OK);
    assert_eq!(&reply.data[..20], b"oar\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
}

#[test]
fn an_unknown_request_is_unsupported() {
    need_kvm();
    let disk = disk();
    let reply = request(Queue::request(0x77, 0, &[]), disk.path().to_str().unwrap());
    assert_eq!(reply.status, queue::UNSUPP);
}

#[test]
fn every_engine_and_cache_mode_writes_the_file_and_an_ephemeral_disk_does_not() {
    need_kvm();
    for (options, is_kept) in [
        (",engine=sync", true),
        (",engine=uring", true),
        (",cache=writethrough", true),
        (",cache=writethrough,engine=uring", true),
        (",cache=direct", true),
        (",cache=direct,engine=sync", true),
        (",ephemeral", false),
    ] {
        let disk = disk();
        let before = std::fs::read(disk.path()).unwrap();
        let mut expected = before.clone();
        expected[9 * 512..10 * 512].fill(0xb0);
        let name = format!("{}{options}", disk.path().display());
        let reply = request(Queue::request(queue::OUT, 9, &[0xb0; 512]), &name);
        assert_eq!((reply.status, reply.used_length), (queue::OK, 1), "{options}");
        let after = std::fs::read(disk.path()).unwrap();
        assert!(after == if is_kept { expected } else { before }, "{options}");
    }
}

#[test]
fn where_io_uring_is_forbidden_a_warning_says_so_and_the_disk_works() {
    need_kvm();
    let disk = disk();
    let name = format!("{},engine=uring,queues=2", disk.path().display());
    let kernel = drive().data(Queue::request(queue::IN, 7, &[])).linux64();
    let ended = Coracle::run(&kernel)
        .args(&["--disk", &name])
        .without_io_uring()
        .end()
        .with_code(0)
        .saying(&["no io_uring here", "Operation not permitted", "engine=sync"]);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    assert_eq!(ended.stdout[21..], [7; 512]);
}

#[test]
fn a_disk_that_another_process_has_is_refused_and_the_process_is_named() {
    need_kvm();
    let kernel = identify().linux64();
    let run = |arguments: &[&str]| Coracle::run(&kernel).args(arguments).end();
    let disk = disk();
    disk.as_file().lock().unwrap();
    for options in ["", ",ro", ",ephemeral"] {
        let name = format!("{}{options}", disk.path().display());
        let holder = format!("process {}", std::process::id());
        run(&["--disk", &name])
            .with_code(125)
            .saying(&["in use", &holder, "ro"]);
        // A dry run only looks at the disk.
        run(&["--disk", &name, "--dry-run"]).with_code(0);
    }
    disk.as_file().unlock().unwrap();
    disk.as_file().lock_shared().unwrap();
    for (options, code) in [("", 125), (",ro", 0), (",ephemeral", 0)] {
        let name = format!("{}{options}", disk.path().display());
        run(&["--disk", &name]).with_code(code);
    }
}

#[test]
fn more_disks_than_a_process_may_have_open_are_told_with_the_limit() {
    let disk = disk();
    let name = format!("{},ro", disk.path().display());
    Coracle::run(&identify().linux64())
        .args(&["--disk", &name].repeat(16))
        .through(&["sh", "-c", "ulimit -n 12; exec \"$@\"", "sh"])
        .end()
        .with_code(125)
        .saying(&["open", "ulimit -n"]);
}

#[test]
fn a_disk_that_is_given_twice_is_told_so_and_not_to_wait_for_itself() {
    let disk = disk();
    let path = disk.path().to_str().unwrap();
    for extra in [&[][..], &["--dry-run"]] {
        let ended = Coracle::run(&identify().linux64())
            .args(&["--disk", path, "--disk", path])
            .args(extra)
            .end()
            .with_code(125)
            .saying(&["given twice", path]);
        assert!(!ended.stderr.contains("in use"), "{}", ended.stderr);
    }
}

#[test]
fn an_image_of_another_format_is_no_disk_and_stays_as_it_is() {
    let disk = disk();
    std::os::unix::fs::FileExt::write_all_at(disk.as_file(), b"KDMV", 0).unwrap();
    let before = std::fs::read(disk.path()).unwrap();
    Coracle::run(&identify().linux64())
        .args(&["--disk", disk.path().to_str().unwrap()])
        .end()
        .with_code(125)
        .saying(&["VMDK", "qemu-img convert -f vmdk", "format=raw"]);
    assert!(std::fs::read(disk.path()).unwrap() == before);
}

#[test]
fn what_begins_like_qcow2_is_not_taken_for_a_raw_image_unasked() {
    let kernel = identify().linux64();
    let dry_run = |name: &str| Coracle::run(&kernel).args(&["--dry-run", "--disk", name]).end();
    let disk = disk();
    std::os::unix::fs::FileExt::write_all_at(disk.as_file(), b"QFI\xfb", 0).unwrap();
    let path = disk.path().display();
    dry_run(&path.to_string())
        .with_code(125)
        .saying(&["qcow2", "format=raw"]);
    dry_run(&format!("{path},format=raw")).with_code(0);
    dry_run(&format!("{path},format=qcow2")).with_code(125);
}
