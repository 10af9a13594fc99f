use super::*;

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
fn each_device_has_a_window_and_a_line_of_its_own() {
    let windows: Vec<_> = (0..DISKS_MAX).map(window).collect();
    for pair in windows.windows(2) {
        assert_eq!(pair[0].address + pair[0].size, pair[1].address);
        assert_eq!(pair[0].irq + 1, pair[1].irq);
    }
    assert_eq!(
        (windows[0].address, windows[0].irq),
        (layout::VIRTIO_MMIO, layout::VIRTIO_IRQ_FIRST)
    );
    assert!(window(DISKS_MAX).irq <= layout::VIRTIO_IRQ_LAST);
}
