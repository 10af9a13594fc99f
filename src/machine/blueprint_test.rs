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
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    let disk = format!("{},ro", image.path().display());
    let disk = Arc::new(Disk::open(&disk.parse().unwrap(), 1).unwrap());
    let placed = place_disks(&vec![disk; 16]);
    let windows: Vec<_> = placed
        .iter()
        .map(|disk| (disk.window.address, disk.window.irq))
        .collect();
    assert_eq!(windows.len(), 16);
    assert_eq!(windows[0], (layout::VIRTIO_MMIO, layout::VIRTIO_IRQ_FIRST));
    assert_eq!(
        windows[15],
        (
            layout::VIRTIO_MMIO + 15 * layout::VIRTIO_MMIO_SIZE,
            layout::VIRTIO_IRQ_FIRST + 15
        )
    );
    assert!(window(DISKS_MAX).irq <= layout::VIRTIO_IRQ_LAST);
}
