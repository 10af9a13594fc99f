use super::*;
use crate::config::Size;

fn config(text: &str, disks: &[&str]) -> Config {
    Config {
        cmdline: text.into(),
        disks: disks.iter().map(|disk| disk.parse().unwrap()).collect(),
        ..Config::default()
    }
}

#[test]
fn the_first_disk_is_the_root_unless_something_else_is() {
    assert_eq!(root_parameters(&config("", &["a"]), false), "root=/dev/vda rw");
    assert_eq!(
        root_parameters(&config("quiet", &["a,ro", "b"]), false),
        "root=/dev/vda ro"
    );
    assert_eq!(
        root_parameters(&config("quiet root=/dev/vdb", &["a", "b"]), false),
        ""
    );
    assert_eq!(root_parameters(&config("", &["a"]), true), "");
    assert_eq!(root_parameters(&config("", &[]), false), "");
}

#[test]
fn an_argument_of_init_is_no_root() {
    for text in ["-- root=/dev/vdb", "quiet -- sh root=x", "x=\"a root=b\""] {
        assert_eq!(
            root_parameters(&config(text, &["a"]), false),
            "root=/dev/vda rw",
            "{text}"
        );
    }
    assert_eq!(
        root_parameters(&config("\"root=/dev/vdb\" -- x", &["a"]), false),
        ""
    );
}

#[test]
fn a_kernel_with_memory_above_4_gib_is_told_that_no_device_needs_bounce_buffers() {
    let with = |memory, cmdline: &str| Config {
        memory: Size(memory),
        ..config(cmdline, &[])
    };
    let hole = layout::MMIO_HOLE;
    for (config, told) in [
        (with(hole, ""), ""),
        (with(hole + 4096, ""), "swiotlb=noforce"),
        (with(hole + 4096, "-- swiotlb=force"), "swiotlb=noforce"),
        (with(hole + 4096, "swiotlb=65536"), ""),
    ] {
        assert_eq!(bounce_buffer_parameters(&config), told, "{config:?}");
    }
}
