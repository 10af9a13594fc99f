use std::fs;

use super::super::Image;
use super::*;
use crate::virtio::block::qcow2::test_image::{Images, need_qemu_img};

fn disk(images: &Images, text: &str) -> Disk {
    format!(
        "{}/{text}",
        images.path("").display().to_string().trim_end_matches('/')
    )
    .parse()
    .unwrap()
}

#[test]
fn a_file_that_is_given_twice_is_said_to_be_with_both_its_names() {
    let images = Images::new();
    images.raw("a", &[0; 512]);
    images.raw("b", &[0; 512]);
    fs::hard_link(images.path("a"), images.path("hard")).unwrap();
    std::os::unix::fs::symlink("a", images.path("soft")).unwrap();
    let check = |names: &[&str]| {
        let disks: Vec<_> = names.iter().map(|name| disk(&images, name)).collect();
        check_each_once(&disks).map_err(|error| error.to_string())
    };
    for other in ["hard", "soft", "hard,ro", "soft,ephemeral"] {
        for names in [["a", "b", other], [other, "b", "a"]] {
            let error = check(&names).unwrap_err();
            let name = other.split(',').next().unwrap();
            assert!(
                error.contains("/a\"")
                    && error.contains(&format!("/{name}\""))
                    && error.contains("same file"),
                "{error}"
            );
        }
    }
    assert!(check(&["a", "a"]).unwrap_err().contains("given twice"));
    for names in [
        &["a", "b"][..],
        &["a,ro", "a,ephemeral", "hard,ro"],
        &["a"],
        &[],
        &["absent", "absent"],
    ] {
        check(names).unwrap();
    }
}

#[test]
fn a_disk_under_another_one_is_told_from_a_disk_of_another_guest() {
    need_qemu_img();
    let images = Images::new();
    images.raw("base.img", &[0; 1 << 20]);
    images.on("overlay.qcow2", "compat=1.1", "base.img", "raw", 1 << 20);
    let (base, overlay) = (disk(&images, "base.img"), disk(&images, "overlay.qcow2"));
    let error = |first: &Disk, second: &Disk| {
        let _first = Image::open(first).unwrap();
        Image::open(second).err().unwrap().to_string()
    };
    assert!(error(&base, &overlay).contains("which another disk of this guest writes"));
    assert!(error(&overlay, &base).contains("is a backing file of another disk of this guest"));
    let read = disk(&images, "base.img,ro");
    let _both = (Image::open(&overlay).unwrap(), Image::open(&read).unwrap());
}
