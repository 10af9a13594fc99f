//! Linux guests that have a name.

use std::fs;
use std::path::PathBuf;

use crate::harbour::Harbour;
use crate::images::cpio;
use crate::place;
use crate::run::Finished;

crate::group!["named":
    a_detached_guest_is_found_by_its_name_and_ended,
    a_stock_guest_powers_off_by_its_button,
];

fn a_detached_guest_is_found_by_its_name_and_ended() {
    let harbour = Harbour::new();
    assert_eq!(harbour.say(&["run", "-d", "--name", "web"]), "web\n");
    // That is what the start waited for.
    assert!(harbour.say(&["logs", "web"]).contains("Coracle guest: Linux"));
    assert!(harbour.say(&["ps"]).contains("web "));
    assert_eq!(harbour.say(&["pause", "web"]), "web\n");
    assert_eq!(harbour.say(&["unpause", "web"]), "web\n");
    let stopped: Finished = harbour.coracle(&["stop", "web"]).end();
    stopped.assert_code(0).assert_explains("guest 'web' was ended: ");
    stopped.assert_explains("no power button");
    assert_eq!(harbour.say(&["wait", "web"]), "143\n");
    assert_eq!(harbour.say(&["rm", "web"]), "web\n");
    assert_eq!(harbour.say(&["ps", "-aq"]), "");
}

/// PID 1 of a guest that powers off when its power button is pressed, as a distribution's does: Debian's own drivers find the
/// button by ACPI, and tell of it as of a key.
const INIT: &str = "#!/bin/busybox sh
export PATH=/bin
mount -t devtmpfs dev /dev
for module in evdev button; do insmod /modules/$module.ko; done
echo waiting for the button
dd if=/dev/input/event0 of=/dev/null bs=24 count=1
echo the button was pressed
poweroff -f
";

fn a_stock_guest_powers_off_by_its_button() {
    let harbour = Harbour::new();
    // What follows in an initrd replaces what is before.
    let mut initrd = fs::read(place::stock().join("stock-initrd")).unwrap();
    initrd.extend(cpio("init", 0o755, INIT.as_bytes()));
    let initrd_path: PathBuf = harbour.path().join("initrd");
    fs::write(&initrd_path, initrd).unwrap();
    let kernel = place::stock().join("vmlinuz");
    let started = harbour
        .coracle(&["run", "-d", "--name", "stock", "--memory", "256M"])
        .args(["--kernel".as_ref(), kernel.as_os_str()])
        .args(["--initrd".as_ref(), initrd_path.as_os_str()])
        .end();
    started.assert_powered_off();
    assert_eq!(started.console(), "stock\n");
    let mut following = harbour.coracle(&["logs", "-f", "stock"]).start();
    following.wait_for("waiting for the button");
    assert_eq!(harbour.say(&["stop", "stock"]), "stock\n");
    following.wait_for("the button was pressed");
    following.end().assert_powered_off();
    assert_eq!(harbour.say(&["wait", "stock"]), "0\n");
}
