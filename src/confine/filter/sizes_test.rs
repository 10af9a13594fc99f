use super::*;

#[test]
fn the_tables_are_as_short_as_is_promised() {
    for (name, most) in [
        ("VCPU", 25),
        ("DISK", 30),
        ("DISK_WITH_RING", 30),
        ("VSOCK", 30),
        ("MAIN", 45),
        ("MAIN_WITH_RESTARTS", 45),
    ] {
        let count = count(tables(name));
        assert!(count <= most, "{name}: {count}");
    }
}

#[test]
fn the_document_has_the_tables_sizes() {
    let document = include_str!("../../../docs/confinement.md");
    for (name, thread) in [
        ("MAIN", "main"),
        ("MAIN_WITH_RESTARTS", "main, with `--on-reboot restart`"),
        ("VCPU", "a vCPU's"),
        ("DISK", "a disk's, `engine=sync`"),
        ("DISK_WITH_RING", "a disk's, `engine=uring`"),
        ("VSOCK", "the socket device's, with `--vsock`"),
        ("CONSOLE", "a writer of output"),
        ("CONTROL", "the control socket's"),
    ] {
        let line = format!("\n| {thread} | {} |\n", count(tables(name)));
        assert!(document.contains(&line), "{line}");
    }
    let line = format!("\n| the parent that keeps a terminal | {} |\n", count(&KEEPER));
    assert!(document.contains(&line), "{line}");
    for main in ["MAIN", "MAIN_WITH_RESTARTS"] {
        let fewer = allowed(tables(main)).difference(&allowed(&START_PLAIN)).count();
        assert!(document.contains(&format!(" {fewer} fewer for main")), "{fewer}");
    }
}
