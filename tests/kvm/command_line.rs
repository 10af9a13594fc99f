use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::{Coracle, Kernel, need_kvm};

guest!(any_kernel, "power_off");

/// What is wrong with a command line, and what stderr says about it. `KERNEL` is a good kernel.
const REFUSED: &[(&[&str], u8, &[&str])] = &[
    (&["run", "--kernal", "KERNEL"], 125, &["--kernal", "--kernel"]),
    (&["rum"], 125, &["rum"]),
    (&[], 125, &["Usage"]),
    (&["run", "--kernel"], 125, &["--kernel"]),
    (
        &["run", "-it", "--rm", "--pull=never", "no-such-image"],
        127,
        &["no-such-image", "coracle pull"],
    ),
    (&["run", "/dev/null"], 125, &["'/dev/null' is a file", "--disk"]),
    (&["run", "-v", "/srv:/srv:ro"], 125, &["folders"]),
    (
        &["run", "--read-only", "--", "true"],
        125,
        &["--read-only is for an image"],
    ),
    (&["run", "--init=/bin/a b", "image"], 125, &["without blanks"]),
    (&["run", "-m", "512"], 125, &["did you mean 512M?"]),
    (
        &["run", "--kernel", "KERNEL", "--memory", "12Q"],
        125,
        &["12Q", "512M"],
    ),
    (&["run", "--kernel", "KERNEL", "--memory", "1M"], 125, &["32M"]),
    (
        &["run", "--kernel", "KERNEL", "--memory", "99999999999G"],
        125,
        &["99999999999G"],
    ),
    (
        &["run", "--kernel", "KERNEL", "--memory", "33554433"],
        125,
        &["4096"],
    ),
    (&["run", "--kernel", "KERNEL", "--cpus", "0"], 125, &["1 to 32"]),
    (&["run", "--kernel", "KERNEL", "--cpus", "33"], 125, &["1 to 32"]),
    (&["run", "--kernel", "KERNEL", "--cpus", "-1"], 125, &["-1"]),
    (
        &["run", "--kernel", "KERNEL", "--cpu", "2"],
        125,
        &["'2'", "host,+vmx"],
    ),
    (
        &["run", "--kernel", "KERNEL", "--cpu", "host,+sgx"],
        125,
        &["'sgx'", "vmx, svm, pmu"],
    ),
    (
        &[
            "run",
            "--dry-run",
            "--kernel",
            "KERNEL",
            "--cmdline",
            "noapic panic=1",
        ],
        125,
        &["coracle: the kernel parameter noapic", "leave it out"],
    ),
    (
        &["run", "--dry-run", "--kernel", "KERNEL", "--cmdline", "maxcpus=0"],
        125,
        &["coracle: the kernel parameter maxcpus=0", "--cpus 1"],
    ),
    (
        &["run", "--kernel", "KERNEL", "--on-reboot", "maybe"],
        125,
        &["maybe", "restart"],
    ),
    (
        &["run", "--kernel", "KERNEL", "--disk", ""],
        125,
        &["names no file"],
    ),
    (
        &["run", "--kernel", "KERNEL", "--disk", "x,rw"],
        125,
        &["'rw'", "ro, ephemeral"],
    ),
    (
        &["run", "--kernel", "KERNEL", "--disk", "/no/disk"],
        127,
        &["/no/disk"],
    ),
    (&["run", "--kernel", "/no/kernel"], 127, &["/no/kernel"]),
    (
        &["run", "--kernel", "KERNEL", "--initrd", "/no/initrd"],
        127,
        &["/no/initrd"],
    ),
    (&["run", "--config", "/no/config"], 127, &["/no/config"]),
    (&["run", "--kernel", "/"], 125, &["directory"]),
    (
        &["run", "--kernel", "/dev/null"],
        125,
        &["/dev/null", "regular file"],
    ),
    (&["run", "--kernel", "KERNEL", "--disk", "/"], 125, &["directory"]),
    (
        &["run", "--kernel", "KERNEL", "--initrd", "/"],
        125,
        &["directory"],
    ),
];

#[test]
fn what_cannot_be_used_is_named_with_its_exit_code_and_nothing_is_printed() {
    let kernel = any_kernel().linux64();
    for (arguments, code, words) in REFUSED {
        let good = kernel.path().to_str().unwrap();
        let arguments: Vec<_> = arguments
            .iter()
            .map(|&word| if word == "KERNEL" { good } else { word })
            .collect();
        let ended = Coracle::new(&arguments).end();
        assert_eq!(
            ended.code,
            Some((*code).into()),
            "{arguments:?}: {}",
            ended.describe()
        );
        assert_eq!(ended.stdout, b"", "{arguments:?}");
        for word in *words {
            assert!(
                ended.stderr.contains(word),
                "{arguments:?}: no {word:?}: {}",
                ended.describe()
            );
        }
    }
}

#[test]
fn a_command_line_longer_than_the_kernel_takes_is_refused_with_the_limit() {
    let long = "x".repeat(3000);
    Coracle::run(&any_kernel().linux64())
        .args(&["--cmdline", &long])
        .end()
        .with_code(125)
        .saying(&["2047"]);
}

#[test]
fn a_configuration_that_is_not_understood_is_refused_with_the_reason() {
    let cases = [
        (r#"{"vcpus": 2}"#, "did you mean 'cpus'?"),
        (r#"{"cpu": 2}"#, "by \"cpus\""),
        (r#"{"cpu": "host,+sgx"}"#, "it knows vmx, svm, pmu"),
        (r#"{"disk": 5}"#, "'disk' must be a disk"),
        (r#"{"disk": "x,readonly"}"#, "'readonly'"),
        ("", "empty"),
        ("\0\u{1}", "line 1"),
    ];
    for (text, word) in cases {
        let file = Kernel::new(text.as_bytes());
        let path = file.path().to_str().unwrap();
        let ended = Coracle::new(&["run", "--config", path]).end();
        assert_eq!(ended.code, Some(125), "{text}: {}", ended.describe());
        assert!(
            ended.stderr.contains(word) && ended.stderr.contains(path),
            "{text}: {}",
            ended.describe()
        );
    }
}

#[test]
fn a_configuration_without_the_unit_of_its_memory_is_answered_with_the_likely_one() {
    let file = Kernel::new(br#"{"memory": 512}"#);
    Coracle::new(&["run", "--config", file.path().to_str().unwrap()])
        .end()
        .with_code(125)
        .saying(&["did you mean 512M?"]);
}

#[test]
fn names_in_a_configuration_are_taken_from_its_directory() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = any_kernel().linux64();
    fs::copy(kernel.path(), folder.path().join("kernel")).unwrap();
    fs::write(folder.path().join("disk.img"), [0; 4096]).unwrap();
    let config = folder.path().join("machine.json");
    fs::write(&config, r#"{"kernel": "kernel", "disk": "disk.img"}"#).unwrap();
    Coracle::new(&["run", "--dry-run", "--config", config.to_str().unwrap()])
        .end()
        .with_code(0)
        .in_silence();
}

#[test]
fn a_file_that_is_no_kernel_is_named_with_what_it_is() {
    let good = any_kernel().linux64().bytes();
    let mut arm = good.clone();
    arm[18] = 183;
    let cases: [(&[u8], &str); 8] = [
        (b"", "is empty"),
        (b"#!/bin/sh\necho kernel\n", "a script"),
        (&good[..40], "cut short"),
        (&good[..100], "cut short"),
        (&good[..0x1000], "cut short"),
        (&arm, "aarch64"),
        (&[0x5a; 4096], "5a, 5a"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "gzip"),
    ];
    for (bytes, word) in cases {
        let file = Kernel::new(bytes);
        let ended = Coracle::run(&file).end();
        assert_eq!(ended.code, Some(125), "{word}: {}", ended.describe());
        let path = file.path().to_str().unwrap();
        assert!(
            ended.stderr.contains(word) && ended.stderr.contains(path),
            "no {word}: {}",
            ended.describe()
        );
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.describe());
    }
}

#[test]
fn an_empty_initrd_is_refused() {
    let empty = Kernel::new(b"");
    Coracle::run(&any_kernel().linux64())
        .args(&["--initrd", empty.path().to_str().unwrap()])
        .end()
        .with_code(125)
        .saying(&["is empty"]);
}

#[test]
fn variables_of_the_environment_that_are_empty_count_as_absent() {
    need_kvm();
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(4096).unwrap();
    let ephemeral = format!("{},ephemeral", disk.path().display());
    let empty = ["TMPDIR=", "RUST_LOG=", "HOME=", "COLUMNS=", "NO_COLOR=", "PATH="];
    Coracle::run(&any_kernel().linux64())
        .args(&["--disk", &ephemeral])
        .through(&[&["env"][..], &empty].concat())
        .end()
        .with_code(0)
        .in_silence();
}

#[test]
fn a_dry_run_tells_of_the_machine_and_makes_none() {
    let kernel = any_kernel().linux64();
    let path = kernel.path().to_str().unwrap();
    let config = Kernel::new(format!("{{\"kernel\": {path:?}, \"cpus\": 3, \"memory\": \"5G\"}}").as_bytes());
    let ended = Coracle::new(&["run", "--dry-run", "--config", config.path().to_str().unwrap()]).end();
    let told = String::from_utf8(ended.with_code(0).in_silence().stdout).unwrap();
    for words in [
        "0x100000, 64-bit Linux entry",
        "5120 MiB",
        "0x0100000000 to 0x0180000000",
        "console=ttyS0",
    ] {
        assert!(told.contains(words), "no {words:?} in {told}");
    }
    assert!(
        told.lines()
            .any(|line| line.starts_with("vCPUs") && line.ends_with(" 3")),
        "{told}"
    );
}

#[test]
fn flags_win_over_the_configuration() {
    let kernel = any_kernel().pvh();
    let config = Kernel::new(b"{\"cpus\": 3}");
    let arguments = [
        "--dry-run",
        "--config",
        config.path().to_str().unwrap(),
        "--cpus",
        "5",
    ];
    let told = String::from_utf8(Coracle::run(&kernel).args(&arguments).end().with_code(0).stdout).unwrap();
    assert!(
        told.lines()
            .any(|line| line.starts_with("vCPUs") && line.ends_with(" 5")),
        "{told}"
    );
    assert!(told.contains("PVH entry"), "{told}");
}

#[test]
fn a_user_who_may_not_use_kvm_is_told_how_to_be_allowed_to() {
    // A file that nobody may open in the place of /dev/kvm, and none of root's powers to open it all the same.
    let forbidden = Kernel::new(b"");
    fs::set_permissions(forbidden.path(), fs::Permissions::from_mode(0o000)).unwrap();
    let file = forbidden.path().to_str().unwrap();
    let prepare =
        "mount --bind \"$1\" /dev/kvm && shift && exec setpriv --bounding-set=-all --inh-caps=-all \"$@\"";
    Coracle::run(&any_kernel().linux64())
        .through(&["unshare", "-Urm", "sh", "-c", prepare, "sh", file])
        .end()
        .with_code(126)
        .saying(&["/dev/kvm", "denied", "try: ", "coracle doctor"]);
}

#[test]
fn a_host_without_kvm_is_126_and_told_of_doctor() {
    let kernel = any_kernel().linux64();
    let hide = "mount -t tmpfs none /dev && exec \"$@\"";
    Coracle::run(&kernel)
        .through(&["unshare", "-Urm", "sh", "-c", hide, "sh"])
        .end()
        .with_code(126)
        .saying(&["/dev/kvm", "coracle doctor"]);
}

#[test]
fn a_kernel_that_is_built_for_it_is_moved_elsewhere_at_each_start_and_stays_with_nokaslr() {
    let kernel = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/kernel/bzimage-kaslr");
    let run = |cmdline: &str| {
        Coracle::new(&["-v", "run", "--dry-run", "--kernel", kernel, "--cmdline", cmdline])
            .end()
            .with_code(0)
    };
    let places: BTreeSet<_> = (0..4)
        .map(|_| {
            let ended = run("quiet");
            let (_, place) = ended.stderr.split_once("virtual addresses are ").unwrap();
            place.split_once(' ').unwrap().0.to_owned()
        })
        .collect();
    // That four starts have one of 511 places happens once in a hundred million times.
    assert!(places.len() > 1, "{places:?}");
    for cmdline in ["nokaslr", "quiet -- nokaslr"] {
        let ended = run(cmdline);
        assert!(!ended.stderr.contains("virtual addresses"), "{}", ended.stderr);
        let shown = String::from_utf8(ended.stdout).unwrap();
        assert!(shown.contains("\n  KASLR       none\n"), "{shown}");
    }
}
