use std::io::Write;
use std::os::unix::net::UnixListener;

use super::*;

impl Image {
    /// An image over any file, also one that fails.
    pub fn over(file: File, size: u64, read_only: bool) -> Self {
        Self {
            path: "test".into(),
            file,
            size,
            read_only,
            lost_data: AtomicBool::new(false),
        }
    }
}

fn error(path: &Path) -> OpenError {
    Image::open(path, false).err().expect("the image opened")
}

#[test]
fn an_image_is_as_large_as_its_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(5 * 512).unwrap();
    let image = Image::open(file.path(), false).unwrap();
    assert_eq!(image.sectors(), 5);
    assert!(!image.read_only());
}

#[test]
fn a_missing_image_is_told_from_other_errors() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("absent.img");
    assert!(error(&path).is_missing());
    assert!(error(&path).to_string().contains("absent.img"));
    assert!(!error(directory.path()).is_missing());
}

#[test]
fn what_is_no_image_is_refused_by_its_kind_without_waiting_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let socket = directory.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    for (path, kind) in [
        (directory.path(), "a directory"),
        (&fifo, "a FIFO"),
        (&socket, "a socket"),
        (Path::new("/dev/null"), "a character device"),
    ] {
        let message = error(path).to_string();
        assert!(
            message.contains(kind) && message.contains(path.to_str().unwrap()),
            "{message}"
        );
    }
}

#[test]
fn an_image_of_no_or_of_partial_sectors_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(error(file.path()).to_string().contains("empty"));
    file.as_file().set_len(1000).unwrap();
    let message = error(file.path()).to_string();
    assert!(
        message.contains("1000 bytes") && message.contains("truncate -s %512"),
        "{message}"
    );
}

#[test]
fn a_file_that_cannot_be_opened_says_why() {
    // Nobody, root neither, may write a program that is running.
    let message = error(&std::env::current_exe().unwrap()).to_string();
    assert!(
        message.contains("Text file busy") && message.contains("add ,ro"),
        "{message}"
    );
}

#[test]
fn a_read_only_image_is_opened_for_reading_only() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(512).unwrap();
    let image = Image::open(file.path(), true).unwrap();
    assert_eq!(
        (&image.file).write(&[1]).unwrap_err().raw_os_error(),
        Some(libc::EBADF)
    );
}

#[test]
fn only_whole_sectors_inside_the_image_are_located() {
    let image = Image::over(File::open("/dev/zero").unwrap(), 8 * 512, true);
    assert_eq!(image.locate(0, 8 * 512), Some(0));
    assert_eq!(image.locate(7, 512), Some(7 * 512));
    assert_eq!(image.locate(8, 0), Some(8 * 512));
    for (sector, length) in [
        (8, 512),
        (0, 9 * 512),
        (7, 1024),
        (0, 511),
        (9, 0),
        (1, u64::MAX - 511),
    ] {
        assert_eq!(image.locate(sector, length), None, "{sector} {length}");
    }
    for sector in [u64::MAX, u64::MAX / 512, u64::MAX / 512 + 1, 1 << 55] {
        assert_eq!(image.locate(sector, 512), None, "{sector:#x}");
    }
}

#[test]
fn after_a_failed_flush_no_flush_succeeds() {
    // Has no fdatasync.
    let mut image = Image::over(File::open("/dev/zero").unwrap(), 512, true);
    assert_eq!(image.flush().unwrap_err().raw_os_error(), Some(libc::EINVAL));
    image.file = tempfile::tempfile().unwrap();
    assert!(image.flush().unwrap_err().to_string().contains("earlier flush"));
}

#[test]
fn short_and_interrupted_transfers_are_continued() {
    for step in [1, 3, 7, 8, 100] {
        let mut memory: Vec<u8> = (0..30).collect();
        let (head, tail) = memory.split_at_mut(11);
        let buffers = [VolatileSlice::from(head), VolatileSlice::from(tail)];
        let moved = std::cell::RefCell::new(Vec::<u8>::new());
        let interrupted = std::cell::Cell::new(false);
        transfer(&buffers, 5, io::ErrorKind::WriteZero, |iovecs, offset| {
            if !interrupted.replace(!interrupted.get()) {
                // SAFETY: errno is this thread's own.
                unsafe { *libc::__errno_location() = libc::EINTR };
                return -1;
            }
            let mut moved = moved.borrow_mut();
            assert_eq!(offset as usize, 5 + moved.len());
            let before = moved.len();
            for iovec in iovecs {
                let count = iovec.iov_len.min(step - (moved.len() - before));
                // SAFETY: `transfer` was given live buffers.
                moved.extend(unsafe { std::slice::from_raw_parts(iovec.iov_base.cast::<u8>(), count) });
            }
            (moved.len() - before) as isize
        })
        .unwrap();
        assert_eq!(moved.into_inner(), (0..30).collect::<Vec<u8>>(), "{step}");
    }
}

#[test]
fn more_buffers_than_one_system_call_takes_are_moved_in_several() {
    let mut contents: Vec<u8> = (0..3000u32).map(|value| value as u8).collect();
    let expected = contents.clone();
    let image = Image::over(tempfile::tempfile().unwrap(), 4096, false);
    let buffers: Vec<_> = contents.chunks_mut(1).map(VolatileSlice::from).collect();
    image.write(&buffers, 512).unwrap();
    let mut read = vec![0; 3000];
    image
        .read(&[VolatileSlice::from(read.as_mut_slice())], 512)
        .unwrap();
    assert_eq!(read, expected);
    let mut past_end = [0; 1];
    let error = image
        .read(&[VolatileSlice::from(&mut past_end[..])], 4096)
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}
