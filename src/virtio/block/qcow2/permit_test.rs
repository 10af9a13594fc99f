use std::fs;
use std::os::unix::fs::symlink;

use proptest::prelude::*;
use tempfile::TempDir;

use super::super::Error;
use super::super::test_image::{Images, disk, need_qemu_img, succeed, text, try_open};
use super::*;
use crate::config::Disk;

fn by(permission: &Backing, image: &str, name: &str) -> Option<Permitted> {
    Permitted::by(permission, Path::new(image), name).ok()
}

fn beside(directory: &str, name: &str) -> Option<Permitted> {
    Some(Permitted::Beside {
        directory: directory.into(),
        name: name.into(),
    })
}

#[test]
fn unasked_a_name_stays_in_the_images_own_directory() {
    let by = |image, name| by(&Backing::Beside, image, name);
    for name in [
        "base.img",
        "./base.img",
        "x/../base.img",
        "../images/base.img",
        "/images/base.img",
    ] {
        assert_eq!(by("/images/image", name), beside("/images", "base.img"), "{name}");
    }
    assert_eq!(by("image", "base.img"), beside(".", "base.img"));
    assert_eq!(by("image", "base.img").unwrap().path(), Path::new("base.img"));
    assert_eq!(by("a/image", "base.img"), beside("a", "base.img"));
    for name in [
        "/etc/shadow",
        "../base.img",
        "x/base.img",
        "..",
        ".",
        "/",
        "x/../../base.img",
        "/images/../base.img",
    ] {
        assert_eq!(by("/images/image", name), None, "{name}");
    }
}

#[test]
fn a_list_permits_what_it_names_and_nothing_beside_the_image() {
    let list = Backing::Named(vec!["/other/base".into(), "images/./second".into()]);
    let named = |path: &str| Some(Permitted::Named(path.into()));
    assert_eq!(by(&list, "images/image", "/other/base"), named("/other/base"));
    assert_eq!(
        by(&list, "images/image", "/other/x/../base"),
        named("/other/base")
    );
    assert_eq!(by(&list, "images/image", "second"), named("images/./second"));
    for name in ["base", "third", "/other/bas", "/other/base/x", "/other"] {
        assert_eq!(by(&list, "images/image", name), None, "{name}");
    }
    let nothing = Backing::Named(Vec::new());
    assert_eq!(by(&nothing, "images/image", "base.img"), None);
    assert_eq!(
        by(&Backing::Any, "images/image", "/etc/shadow"),
        named("/etc/shadow")
    );
}

fn open_in(directory: &TempDir, name: &str) -> Result<(File, Identity), Refusal> {
    let permitted = Permitted::Beside {
        directory: directory.path().into(),
        name: name.into(),
    };
    permitted.open(&[])
}

#[test]
fn beside_an_image_only_images_are_opened_and_no_link_is_followed() {
    let outside = TempDir::new().unwrap();
    fs::write(outside.path().join("secret.img"), [1; 512]).unwrap();
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("raw.img"), [1; 512]).unwrap();
    fs::write(path("raw.raw"), [1; 512]).unwrap();
    fs::write(path("qcow2"), b"QFI\xfb and more").unwrap();
    for name in ["raw.img", "raw.raw", "qcow2"] {
        open_in(&directory, name).unwrap();
    }
    fs::write(path("notes.txt"), [1; 512]).unwrap();
    fs::write(path("short"), b"QF").unwrap();
    symlink(outside.path().join("secret.img"), path("link.img")).unwrap();
    symlink("raw.img", path("inner.img")).unwrap();
    for name in ["notes.txt", "short", "link.img", "inner.img"] {
        assert!(
            matches!(open_in(&directory, name), Err(Refusal::NotPermitted(_))),
            "{name}"
        );
    }
    fs::create_dir(path("directory.img")).unwrap();
    assert!(matches!(open_in(&directory, "directory.img"), Err(Refusal::Kind)));
    assert!(matches!(open_in(&directory, "absent.img"), Err(Refusal::Io(_))));
}

#[test]
fn a_file_that_is_exchanged_for_a_link_all_the_time_is_never_followed() {
    let outside = TempDir::new().unwrap();
    let secret = outside.path().join("secret.img");
    fs::write(&secret, b"secret").unwrap();
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("base.img"), b"plain!").unwrap();
    symlink(&secret, path("link.img")).unwrap();
    let names = ["base.img", "link.img"].map(|name| CString::new(path(name).as_os_str().as_bytes()).unwrap());
    let is_done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                let (here, [one, other]) = (libc::AT_FDCWD, names.each_ref().map(|name| name.as_ptr()));
                // SAFETY: both names are C strings.
                let done = unsafe { libc::renameat2(here, one, here, other, libc::RENAME_EXCHANGE) };
                assert_eq!(done, 0);
            }
        });
        let mut opened = (0..20000).filter_map(|_| open_in(&directory, "base.img").ok());
        let are_plain = opened.all(|(file, _)| {
            let mut bytes = [0; 6];
            file.read_exact_at(&mut bytes, 0).is_ok() && &bytes == b"plain!"
        });
        is_done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(are_plain);
    });
}

#[test]
fn an_image_opens_no_file_of_the_host_that_nobody_named() {
    need_qemu_img();
    let images = Images::new();
    let elsewhere = Images::new();
    let secret = elsewhere.raw("secret", &[1; 512]);
    let path = images.on("image", "compat=1.1", text(&secret), "raw", 1 << 20);
    let refused = try_open(&Disk::new(path.clone())).err().unwrap();
    assert!(matches!(refused, Error::NotPermitted { .. }));
    let words = refused.to_string();
    let option = format!("add ,backing={}", text(&secret));
    assert!(words.contains(&option) && words.contains(text(&path)), "{words}");

    let named = Disk {
        backing: Backing::Named(vec![secret.clone()]),
        ..Disk::new(path.clone())
    };
    assert_eq!(try_open(&named).unwrap().files().last(), Some(secret.as_path()));
    try_open(&disk(&path)).unwrap();
    fs::remove_file(&secret).unwrap();
    assert!(
        matches!(
            try_open(&Disk::new(path)).err().unwrap(),
            Error::NotPermitted { .. }
        ),
        "an image learns whether a file of the host exists"
    );
}

#[test]
fn what_is_permitted_to_an_image_is_asked_for_each_image_under_it() {
    need_qemu_img();
    let images = Images::new();
    let elsewhere = Images::new();
    let secret = elsewhere.raw("secret", &[1; 512]);
    let middle = images.on("middle", "compat=1.1", text(&secret), "raw", 1 << 20);
    let path = images.on("image", "compat=1.1", "middle", "qcow2", 1 << 20);
    let open = |backing: &[&Path]| {
        let files = backing.iter().map(|file| file.to_path_buf()).collect::<Vec<_>>();
        try_open(&Disk {
            backing: match files.as_slice() {
                [] => Backing::Beside,
                _ => Backing::Named(files),
            },
            ..Disk::new(path.clone())
        })
    };
    for files in [&[] as &[&Path], &[&secret], &[&middle]] {
        assert!(
            matches!(open(files).err().unwrap(), Error::NotPermitted { .. }),
            "{files:?}"
        );
    }
    assert_eq!(open(&[&middle, &secret]).unwrap().files().count(), 3);
}

#[test]
fn a_name_that_would_drive_the_terminal_is_shown_without_what_does() {
    need_qemu_img();
    let images = Images::new();
    let path = images.create("image", "compat=1.1", 1 << 20);
    let name = "/x/\u{1b}]0;title\u{7}\u{202e}name";
    succeed(&["rebase", "-u", "-b", name, "-F", "raw", text(&path)]);
    let words = try_open(&Disk::new(path)).err().unwrap().to_string();
    assert!(
        words.contains("'/x/name'") && words.contains("qemu-img rebase"),
        "{words}"
    );
    assert!(!words.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{words:?}");
}

proptest! {
    #[test]
    fn no_name_leads_out_of_the_directory(name in "[./a]{1,12}|\\PC{0,12}") {
        if let Some(Permitted::Beside { directory, name }) = by(&Backing::Beside, "/images/image", &name) {
            prop_assert_eq!(directory, Path::new("/images"));
            prop_assert!(!name.as_bytes().contains(&b'/') && name != "." && name != "..");
        }
    }
}
