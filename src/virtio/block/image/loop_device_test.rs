use std::process::Command;

use super::super::opening::repeat_while_busy;
use super::super::qemu_locks::tests::QemuIo;
use super::super::{Image, ImageError, OpenError, check_each_once};
use super::test_device::LoopDevice;
use super::*;
use crate::config::{Backing, Disk};
use crate::virtio::block::qcow2::test_image::{Images, data_file_of, need_qemu_img, qemu_img, text};

fn image(images: &Images) -> PathBuf {
    images.raw("image", &[0; 1 << 20])
}

fn read_only(path: &Path) -> Disk {
    Disk {
        ro: true,
        ..Disk::new(path.into())
    }
}

fn refusal(disk: &Disk) -> ImageError {
    Image::open(disk).err().expect("it was opened")
}

#[test]
fn a_loop_device_and_its_partitions_are_the_file_under_it() {
    let images = Images::new();
    let file = image(&images);
    let device = LoopDevice::new(&file);
    let on_it = LoopDevice::new(&device.path);
    for path in [&device.path, &device.add_partition(1), &on_it.path] {
        for pair in [[&file, path], [path, &file]] {
            let writers = pair.map(|path| Disk::new(path.clone()));
            let error = check_each_once(&writers).unwrap_err().to_string();
            assert!(error.contains("the same file, or parts of it"), "{error}");
            check_each_once(&pair.map(|path| read_only(path))).unwrap();
        }
    }
    let other = images.raw("other", &[0; 512]);
    check_each_once(&[&other, &device.path].map(|path| Disk::new(path.clone()))).unwrap();
}

#[test]
fn one_writes_a_loop_device_or_its_file_and_nobody_both() {
    let images = Images::new();
    let file = image(&images);
    let device = LoopDevice::new(&file);
    for path in [&device.path, &device.add_partition(1)] {
        for [first, second] in [[&file, path], [path, &file]] {
            let writes = |path: &Path| Disk::new(path.into());
            let writer = Image::open(&writes(first)).unwrap();
            // The holder is this process, so it counts as another disk of this guest.
            for disk in [writes(second), read_only(second)] {
                let error = refusal(&disk);
                assert!(
                    matches!(error, ImageError::Open(OpenError::UnderAnother { .. })),
                    "{error}"
                );
            }
            drop(writer);
            let _readers = [first, second].map(|path| Image::open(&read_only(path)).unwrap());
            refusal(&writes(first));
            refusal(&writes(second));
        }
    }
}

#[test]
fn partitions_of_one_loop_device_have_a_writer_each() {
    need_qemu_img();
    let images = Images::new();
    let file = image(&images);
    let device = LoopDevice::new(&file);
    let paths = [device.add_partition(1), device.add_partition(2)];
    let disks = paths.each_ref().map(|path| Disk::new(path.clone()));
    check_each_once(&disks).unwrap();
    check_each_once(&[disks[0].clone(), disks[0].clone()]).unwrap_err();
    let mut writers = disks.each_ref().map(|disk| Some(Image::open(disk).unwrap()));
    refusal(&disks[0]);
    // As long as one of them is written, the whole is neither written nor read.
    for writer in &mut writers {
        for path in [&file, &device.path] {
            refusal(&Disk::new(path.clone()));
            refusal(&read_only(path));
        }
        let output = qemu_img(&["bench", "-w", "-c", "1", "-f", "raw", text(&file)]);
        assert!(!output.status.success(), "QEMU writes it");
        *writer = None;
    }
    let reader = Image::open(&read_only(&file)).unwrap();
    disks.iter().map(refusal).for_each(drop);
    drop(reader);
    let qemu = QemuIo::open(&file, "raw", &[]);
    disks.iter().map(refusal).for_each(drop);
    drop(qemu);
    let _writers = disks.each_ref().map(|disk| Image::open(disk).unwrap());
}

#[test]
fn partitions_of_two_loop_devices_over_one_file_have_one_writer() {
    let images = Images::new();
    let file = image(&images);
    let devices = [LoopDevice::new(&file), LoopDevice::new(&file)];
    let [first, same, other] = [(0, 1), (1, 1), (1, 2)].map(|(device, number)| {
        let path = devices[device].add_partition(number);
        Disk::new(path)
    });
    for second in [same, other] {
        check_each_once(&[first.clone(), second.clone()]).unwrap_err();
        for [one, two] in [[&first, &second], [&second, &first]] {
            let writer = Image::open(one).unwrap();
            refusal(two);
            refusal(&read_only(&two.file));
            drop(writer);
        }
    }
}

#[test]
fn a_partition_is_not_read_while_another_one_is_written() {
    let images = Images::new();
    let device = LoopDevice::new(&image(&images));
    let paths = [device.add_partition(1), device.add_partition(2)];
    for [written, read] in [[&paths[0], &paths[1]], [&paths[1], &paths[0]]] {
        let disks = [Disk::new(written.clone()), read_only(read)];
        let error = check_each_once(&disks).unwrap_err().to_string();
        assert!(error.contains("partitions of one loop device"), "{error}");
        let _writer = Image::open(&disks[0]).unwrap();
        refusal(&disks[1]);
    }
    check_each_once(&paths.each_ref().map(|path| read_only(path))).unwrap();
}

#[test]
fn another_process_is_named_that_has_the_file_under_a_loop_device() {
    let images = Images::new();
    let file = image(&images);
    let device = LoopDevice::new(&file);
    let mut command = Command::new("flock");
    // It says when it has the lock, and holds it until its input ends.
    command.arg(&file).args(["sh", "-c", "echo locked; read line"]);
    let pipe = std::process::Stdio::piped;
    let mut other = command.stdin(pipe()).stdout(pipe()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut io::BufReader::new(other.stdout.take().unwrap()), &mut line).unwrap();
    let error = refusal(&Disk::new(device.path.clone()));
    drop(other.stdin.take());
    other.wait().unwrap();
    let words = format!("is in use by process {}", other.id());
    assert!(error.to_string().contains(&words), "{error}");
    Image::open(&Disk::new(device.path.clone())).unwrap();
}

#[test]
fn qemu_does_not_write_the_file_under_a_disk_nor_a_loop_device_over_it() {
    need_qemu_img();
    let images = Images::new();
    let file = image(&images);
    let device = LoopDevice::new(&file);
    let writes = |path: &Path| {
        let output = qemu_img(&["bench", "-w", "-c", "1", "-f", "raw", text(path)]);
        output.status.success()
    };
    for (ours, theirs) in [(&device.path, &file), (&file, &device.path)] {
        let image = Image::open(&Disk::new(ours.clone())).unwrap();
        assert!(!writes(theirs), "{theirs:?}");
        drop(image);
        assert!(writes(theirs), "{theirs:?}");
    }
}

#[test]
fn a_file_that_the_host_has_mounted_by_a_loop_device_is_not_written() {
    let images = Images::new();
    let file = image(&images);
    let device = LoopDevice::new(&file);
    for path in [&device.path, &device.add_partition(1)] {
        // As a mounted file system has it. A test on another thread may just have forked while the image was open.
        let mounted = repeat_while_busy(|| claim(path)).unwrap();
        let error = refusal(&Disk::new(file.clone()));
        assert!(
            matches!(error, ImageError::Open(OpenError::MountedByLoop { .. })),
            "{error}"
        );
        Image::open(&read_only(&file)).unwrap();
        drop(mounted);
        let _writer = Image::open(&Disk::new(file.clone())).unwrap();
        let busy = claim(path).unwrap_err();
        assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy, "the host can mount it");
    }
}

#[test]
fn a_loop_device_is_waited_for_that_a_child_still_has_open() {
    let images = Images::new();
    let file = image(&images);
    let device = LoopDevice::new(&file);
    let claimed = claim(&device.path).unwrap();
    // SAFETY: dup changes no memory. A copy made by it is not closed when the child executes its program.
    let inherited = unsafe { libc::dup(claimed.as_raw_fd()) };
    let mut child = Command::new("sleep").arg("0.1").spawn().unwrap();
    // SAFETY: the descriptor was made above, and nothing else has it.
    assert_eq!(unsafe { libc::close(inherited) }, 0);
    drop(claimed);
    Image::open(&Disk::new(file)).unwrap();
    child.wait().unwrap();
}

#[test]
fn a_file_is_believed_to_be_under_a_device_only_if_it_is() {
    let images = Images::new();
    let file = image(&images);
    let device = LoopDevice::new(&file);
    let under = || Under::of(&open(&device.path, 0).unwrap()).unwrap();
    under().open().unwrap();
    // Another file takes its name.
    fs::rename(&file, images.path("renamed")).unwrap();
    under().open().unwrap();
    fs::remove_file(images.path("renamed")).unwrap();
    images.raw("renamed (deleted)", &[0; 512]);
    assert!(under().open().is_err());
    Image::open(&Disk::new(device.path.clone())).unwrap();
}

#[test]
fn an_image_has_no_file_twice_by_a_loop_device() {
    need_qemu_img();
    let images = Images::new();
    let options = images.data_outside("image.qcow2", "compat=1.1");
    let path = images.create("image.qcow2", &options, 1 << 20);
    let data = data_file_of(&path);
    let device = LoopDevice::new(&path);
    let disk = Disk {
        data: Some(device.path.clone()),
        ..Disk::new(path.clone())
    };
    assert!(refusal(&disk).to_string().contains("its own data file"));
    let below = LoopDevice::new(&data);
    let options = images.data_outside("top.qcow2", "compat=1.1");
    let path = images.on("top.qcow2", &options, text(&below.path), "raw", 1 << 20);
    let disk = Disk {
        data: Some(data),
        backing: Backing::Any,
        ..Disk::new(path)
    };
    assert!(refusal(&disk).to_string().contains("above it already"));
}
