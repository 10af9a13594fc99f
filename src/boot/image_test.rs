use std::os::unix::net::UnixListener;

use super::super::test_images::memory;
use super::*;

fn refusal(path: &Path) -> Problem {
    Image::open(path).unwrap_err().problem
}

#[test]
fn a_file_that_cannot_be_an_image_says_what_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name| directory.path().join(name);
    std::fs::write(path("empty"), "").unwrap();
    let fifo = std::ffi::CString::new(path("fifo").to_str().unwrap()).unwrap();
    // SAFETY: the path is a NUL-terminated string that outlives the call.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
    let _listener = UnixListener::bind(path("socket")).unwrap();
    std::os::unix::fs::symlink("nowhere", path("dangling")).unwrap();

    assert!(matches!(refusal(&path("missing")), Problem::Missing));
    assert!(matches!(refusal(&path("dangling")), Problem::Missing));
    assert!(matches!(refusal(&path("empty/below-a-file")), Problem::Missing));
    assert!(matches!(refusal(directory.path()), Problem::Directory));
    assert!(matches!(refusal(&path("empty")), Problem::Empty));
    assert!(matches!(refusal(&path("fifo")), Problem::NotAFile));
    assert!(matches!(refusal(&path("socket")), Problem::NotAFile));
    assert!(matches!(refusal(Path::new("/dev/zero")), Problem::NotAFile));
}

#[test]
fn errors_name_the_file_and_only_a_missing_one_counts_as_missing() {
    let error = Image::open(Path::new("/no/such/vmlinux")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/no/such/vmlinux: no such file (check the path)"
    );
    assert!(error.is_missing());
    // A terminal would act on the name as it is.
    let error = Image::open(Path::new("\x1b[31m")).unwrap_err();
    assert_eq!(error.to_string(), r"'\u{1b}[31m': no such file (check the path)");
    assert!(!Image::open(Path::new("/")).unwrap_err().is_missing());
}

#[test]
fn reads_beyond_the_end_are_errors_and_never_short() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, &[7; 100]).unwrap();
    let memory = memory(0x1000);
    for image in [
        Image::open(file.path()).unwrap(),
        Image::BuiltIn {
            name: "seven",
            bytes: &[7; 100],
            file: None,
        },
    ] {
        let mut source = &image;
        assert_eq!(source.length().unwrap(), 100);
        assert!(source.read(50, &mut [0; 50]).is_ok());
        assert!(source.read(50, &mut [0; 51]).is_err());
        assert!(source.read(u64::MAX, &mut [0; 2]).is_err());
        assert!(source.load(0, 100, &memory, GuestAddress(0x800)).is_ok());
        assert!(source.load(1, 100, &memory, GuestAddress(0x800)).is_err());
        assert!(source.load(0, 100, &memory, GuestAddress(0xff0)).is_err());
    }
}

#[test]
fn a_stream_ends_where_it_was_told_to() {
    let image = Image::BuiltIn {
        name: "digits",
        bytes: b"0123456789",
        file: None,
    };
    let mut out = String::new();
    ImageReader {
        image: &image,
        position: 2,
        end: 5,
    }
    .read_to_string(&mut out)
    .unwrap();
    ImageReader {
        image: &image,
        position: 8,
        end: 50,
    }
    .read_to_string(&mut out)
    .unwrap();
    ImageReader {
        image: &image,
        position: 50,
        end: 60,
    }
    .read_to_string(&mut out)
    .unwrap();
    assert_eq!(out, "23489");
}
