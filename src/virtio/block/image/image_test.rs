use std::fs::File;
use std::os::unix::net::UnixListener;

use super::*;

impl Image {
    /// An image over any file, also one that fails.
    pub fn over(file: File, size: u64, read_only: bool) -> Self {
        Self {
            path: "test".into(),
            limits: Limits {
                size,
                block_size: SECTOR_SIZE,
                read_only,
                discard_sectors: DISCARD_SECTORS_MAX,
                write_zeroes_sectors: WRITE_ZEROES_SECTORS_MAX,
            },
            physical_block_size: SECTOR_SIZE,
            data: Data::Raw(Raw::new(file, None, false)),
            lost_data: AtomicBool::new(false),
        }
    }
}

fn open(path: &Path) -> Result<Image, ImageError> {
    Image::open(&Disk::new(path.into()))
}

fn error(path: &Path) -> ImageError {
    open(path).err().expect("the image opened")
}

#[test]
fn an_image_is_as_large_as_its_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(5 * 512).unwrap();
    let image = open(file.path()).unwrap();
    assert_eq!(image.limits().size, 5 * 512);
    assert!(!image.limits().read_only);
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
    let image = Image::open(&Disk {
        ro: true,
        ..Disk::new(file.path().into())
    })
    .unwrap();
    let error = image
        .write(&mut Buffers::of(&mut [1; 512]), 0, false)
        .unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EBADF));
}

#[test]
fn after_a_failed_flush_no_flush_succeeds() {
    // Has no fdatasync.
    let mut image = Image::over(File::open("/dev/zero").unwrap(), 512, true);
    assert_eq!(image.flush().unwrap_err().raw_os_error(), Some(libc::EINVAL));
    image.data = Data::Raw(Raw::new(tempfile::tempfile().unwrap(), None, false));
    assert!(image.flush().unwrap_err().to_string().contains("earlier flush"));
}
