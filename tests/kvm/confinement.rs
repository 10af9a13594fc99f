//! How far a run is confined: on this host, and on hosts that lack something.

use std::fs;
use std::process::Command;

use crate::support::{Coracle, need_kvm};

guest!(
    switch_off,
    "
    power_off
"
);

#[test]
fn without_confinement_a_run_says_so() {
    need_kvm();
    Coracle::run(&switch_off().linux64())
        .args(&["--confine", "off"])
        .end()
        .with_code(0)
        .saying(&["this process is not confined, as --confine off says"]);
    for arguments in [&["--confine", "auto"][..], &["--confine", "require"], &[]] {
        Coracle::run(&switch_off().linux64())
            .args(arguments)
            .end()
            .with_code(0)
            .in_silence();
    }
}

#[test]
fn a_host_without_landlock_is_told_and_refused_where_all_is_required() {
    need_kvm();
    let run = |arguments: &[&str]| {
        Coracle::run(&switch_off().linux64())
            .args(arguments)
            .without_call(libc::SYS_landlock_create_ruleset)
            .end()
    };
    let ended = run(&["--confine", "auto"]).with_code(0);
    let lines: Vec<_> = ended.stderr.lines().collect();
    assert!(
        matches!(lines[..], [line] if line.contains("less confined") && line.contains("no Landlock")),
        "{lines:?}"
    );
    for arguments in [
        &["--confine", "require"][..],
        &["--confine", "require", "--dry-run"],
    ] {
        let ended = run(arguments).with_code(126);
        assert_eq!(ended.stdout, b"");
        ended.saying(&["files       NOT ENFORCED", "no Landlock", "--confine auto"]);
    }
    let shown = run(&["--dry-run", "--confine", "auto"]).with_code(0).stdout;
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.contains("  files       NOT ENFORCED: "), "{shown}");
    assert!(shown.contains("  privileges  no capabilities"), "{shown}");
    let off = run(&["--dry-run", "--confine", "off"]).with_code(0).stdout;
    assert!(String::from_utf8(off).unwrap().ends_with("\nconfinement   off\n"));
    let user = run(&["--dry-run", "--confine", "auto", "--host-user", "4321"])
        .with_code(0)
        .stdout;
    let user = String::from_utf8(user).unwrap();
    assert!(
        user.contains("\nuser          4321:4321, if root starts it\n"),
        "{user}"
    );
}

#[test]
fn a_host_without_user_namespaces_is_refused_where_all_is_required() {
    need_kvm();
    let run = |confine: &str| {
        Coracle::run(&switch_off().linux64())
            .args(&["--confine", confine])
            .without_call(libc::SYS_unshare)
            .end()
    };
    run("auto").with_code(0).in_silence();
    run("require")
        .with_code(126)
        .saying(&["namespaces  NOT ENFORCED", "no user namespace"]);
}

#[test]
fn no_kind_of_disk_keeps_a_run_from_being_confined_in_every_way() {
    need_kvm();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    fs::write(file("raw"), vec![0; 1 << 20]).unwrap();
    fs::write(file("base.img"), vec![0; 1 << 20]).unwrap();
    let image = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
        .args([file("base.img"), file("image.qcow2")])
        .status()
        .unwrap();
    assert!(image.success());
    Coracle::run(&switch_off().linux64())
        .args(&["--confine", "require"])
        .args(&["--disk", &format!("{},cache=direct", file("raw"))])
        .args(&["--disk", &format!("{},ephemeral", file("base.img"))])
        .args(&["--disk", &format!("{},cache=direct", file("image.qcow2"))])
        .end()
        .with_code(0)
        .in_silence();
}

#[test]
fn nobody_but_root_can_become_another_user() {
    need_kvm();
    Coracle::run(&switch_off().linux64())
        .args(&["--host-user", "4321"])
        .without_capabilities()
        .end()
        .with_code(125)
        .saying(&["cannot become user and group 4321:4321", "only root can"]);
}

#[test]
fn a_sandbox_that_kills_for_a_namespace_ends_no_run_that_can_do_without() {
    need_kvm();
    for call in [libc::SYS_unshare, libc::SYS_mount] {
        Coracle::run(&switch_off().linux64())
            .args(&["--confine", "auto"])
            .where_call_kills(call)
            .end()
            .with_code(0)
            .in_silence();
    }
}

#[test]
fn what_a_run_would_enforce_is_told_under_a_parent_that_ignores_the_ends_of_its_children() {
    need_kvm();
    Coracle::run(&switch_off().linux64())
        .args(&["--confine", "require", "--dry-run"])
        .with_ignored(libc::SIGCHLD)
        .end()
        .with_code(0);
}

#[test]
fn where_no_thread_can_try_the_layers_that_is_told() {
    need_kvm();
    let shown = Coracle::run(&switch_off().linux64())
        .args(&["--dry-run", "--confine", "auto"])
        .without_call(libc::SYS_clone3)
        .end()
        .with_code(0)
        .stdout;
    let shown = String::from_utf8(shown).unwrap();
    assert!(
        shown.contains("  calls       NOT ENFORCED: no thread can be started"),
        "{shown}"
    );
}

#[test]
fn the_environment_does_not_change_the_stacks_of_threads() {
    need_kvm();
    for size in ["1", "100000000000"] {
        Coracle::run(&switch_off().linux64())
            .through(&["env", &format!("RUST_MIN_STACK={size}")])
            .end()
            .with_code(0)
            .in_silence();
    }
}
