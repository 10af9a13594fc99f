use proptest::prelude::*;

use super::*;
use crate::config::{Backing, Cache, Confine, OnReboot, Size, User};

fn refused(text: &str) -> String {
    match parse(text.as_bytes()) {
        Ok(config) => panic!("{text} was taken: {config:?}"),
        Err(why) => why,
    }
}

fn parsed(text: &str) -> Config {
    parse(text.as_bytes()).unwrap_or_else(|why| panic!("{text}: {why}"))
}

#[test]
fn the_keys_are_the_names_of_the_flags() {
    let config = parsed(
        r#"{"kernel": "vmlinux", "cpus": 4, "memory": "1G", "cmdline": "quiet", "on-reboot": "restart",
            "confine": "require", "host-user": "7:8", "no-escape": true, "vsock": "a.sock,cid=9", "disk": [{"file": "a.img", "ro": true, "id": "a", "cache": "direct", "queues": 2}]}"#,
    );
    assert_eq!(config.kernel.as_deref(), Some(Path::new("vmlinux")));
    assert_eq!(config.initrd, None);
    assert_eq!((config.cpus, config.memory), (4, Size(1 << 30)));
    assert_eq!(config.cmdline, "quiet");
    assert_eq!(config.on_reboot, OnReboot::Restart);
    assert_eq!(config.confine, Confine::Require);
    assert_eq!(config.host_user, Some(User { user: 7, group: 8 }));
    assert!(config.no_escape);
    let vsock = config.vsock.unwrap();
    assert_eq!((vsock.path, vsock.cid), (Some("a.sock".into()), 9));
    let expected = Disk {
        ro: true,
        id: Some("a".into()),
        cache: Cache::Direct,
        queues: Some(2),
        ..Disk::new("a.img".into())
    };
    assert_eq!(config.disks, [expected]);
}

#[test]
fn a_disk_is_a_text_or_an_object_or_a_list_of_either() {
    let plain = [Disk::new("d.img".into())];
    for text in [
        r#"{"disk": "d.img"}"#,
        r#"{"disk": ["d.img"]}"#,
        r#"{"disk": {"file": "d.img"}}"#,
        r#"{"disk": [{"file": "d.img", "ro": false, "id": null}]}"#,
    ] {
        assert_eq!(parsed(text).disks, plain, "{text}");
    }
    let two = parsed(r#"{"disk": ["a.img,ro", {"file": "b,c.img"}]}"#).disks;
    assert_eq!(two, ["a.img,ro".parse().unwrap(), Disk::new("b,c.img".into())]);
}

#[test]
fn backing_files_are_one_text_or_a_list() {
    let backing = |value: &str| {
        let text = format!(r#"{{"disk": {{"file": "a", "backing": {value}}}}}"#);
        parsed(&text).disks[0].backing.clone()
    };
    let named = |files: &[&str]| Backing::Named(files.iter().map(PathBuf::from).collect());
    assert_eq!(backing("null"), Backing::Beside);
    assert_eq!(backing("\"any\""), Backing::Any);
    assert_eq!(backing("\"b\""), named(&["b"]));
    assert_eq!(backing("[\"b\", \"c,d\"]"), named(&["b", "c,d"]));
}

#[test]
fn a_key_without_a_value_is_as_good_as_none() {
    let all: Vec<_> = KEYS.iter().map(|key| format!("{:?}: null", key.name)).collect();
    assert_eq!(parsed(&format!("{{{}}}", all.join(", "))), Config::default());
}

#[test]
fn what_is_not_understood_is_answered_in_a_persons_words() {
    for (text, words) in [
        ("", &["empty"][..]),
        (" \n", &["empty"]),
        ("[]", &["must be an object", "a list"]),
        ("\"cpus\"", &["must be an object", "the text \"cpus\""]),
        ("{\"cpus\": 2", &["line 1", "still open"]),
        ("{\n  \"cpus\": 2, // two\n}", &["line 2 has a comment"]),
        ("{\"cpus\": 2,}", &["trailing comma at line 1"]),
        (
            r#"{"kernal": "x"}"#,
            &["\"kernal\"", "did you mean 'kernel'?", "on-reboot"],
        ),
        (r#"{"on_reboot": "exit"}"#, &["did you mean 'on-reboot'?"]),
        (r#"{"disks": "a"}"#, &["did you mean 'disk'?"]),
        (r#"{"mem": "1G"}"#, &["did you mean 'memory'?"]),
        (r#"{"xyzzy": 1}"#, &["\"xyzzy\" (the keys are kernel, initrd,"]),
        (r#"{"cpus": 1, "cpus": 2}"#, &["\"cpus\" stands twice"]),
        (r#"{"disk": "a", "disk": "b"}"#, &["stands twice", "one list"]),
        (
            r#"{"disk": [{"file": "a", "id": "x", "id": "y"}]}"#,
            &["\"id\" stands twice"],
        ),
        (r#"{"kernel": 1}"#, &["'kernel' must be a file name", "not 1"]),
        (
            r#"{"cmdline": ["quiet"]}"#,
            &["'cmdline'", "one text", "not a list"],
        ),
        (
            r#"{"cpus": "2"}"#,
            &["'cpus'", "without quotation marks", "not the text \"2\""],
        ),
        (r#"{"cpus": 300}"#, &["'cpus'", "1 to 32", "300"]),
        (r#"{"cpus": 1.5}"#, &["'cpus'", "1.5"]),
        (r#"{"memory": "much"}"#, &["'memory'", "512M", "\"much\""]),
        (r#"{"memory": -1}"#, &["'memory'", "-1"]),
        (
            r#"{"on-reboot": "restrat"}"#,
            &["\"exit\" or \"restart\"", "restrat"],
        ),
        (
            r#"{"confine": "on"}"#,
            &["\"auto\", \"require\" or \"off\"", "\"on\""],
        ),
        (r#"{"host-user": "nobody"}"#, &["by their numbers", "\"nobody\""]),
        (r#"{"no-escape": "yes"}"#, &["true or false", "\"yes\""]),
        (
            r#"{"disk": 5}"#,
            &["'disk' must be a disk", "{\"file\":", "not 5"],
        ),
        (r#"{"disk": [["a"]]}"#, &["'disk' must be a disk"]),
        (r#"{"disk": {"ro": true}}"#, &["no 'file'", "ephemeral"]),
        (r#"{"disk": {"file": ["a"]}}"#, &["'file' of a disk", "a list"]),
        (
            r#"{"disk": {"file": "a", "ro": "yes"}}"#,
            &["'ro' of a disk must be true or false"],
        ),
        (
            r#"{"disk": {"file": "a", "readonly": true}}"#,
            &["'readonly'", "the keys of a disk are file, ro, ephemeral"],
        ),
        (
            r#"{"disk": {"file": "a", "cache": "none"}}"#,
            &["'cache' of a disk", "'none'", "writeback"],
        ),
        (
            r#"{"disk": {"file": "a", "queues": "two"}}"#,
            &["'queues' of a disk", "'two'"],
        ),
        (r#"{"disk": "a,rw"}"#, &["'rw'"]),
        (r#"{"disk": "a,id=a,id=b"}"#, &["'id' is given twice"]),
        (r#"{"cpu": "host,+vmx,-vmx"}"#, &["'vmx' is given twice"]),
        (
            r#"{"disk": {"file": "a", "backing": [1]}}"#,
            &["'backing' of a disk", "a list of texts"],
        ),
        (
            r#"{"disk": {"file": "a", "backing": ["any", "b"]}}"#,
            &["'backing' of a disk", "./any"],
        ),
    ] {
        let answer = refused(text);
        for word in words {
            assert!(answer.contains(word), "{text}: no {word:?} in: {answer}");
        }
        for word in ["expected", "sequence", "invalid type", "untagged", "u8"] {
            assert!(!answer.contains(word), "{text}: the parser speaks: {answer}");
        }
    }
}

#[test]
fn what_a_file_says_reaches_the_terminal_without_control_sequences() {
    for text in [
        r#"{"\u001b[2J": 1}"#,
        r#"{"cpus": "\u009b2J"}"#,
        r#"{"disk": {"file": "a", "\u001b]0;": 1}}"#,
        r#"{"disk": {"file": "a", "cache": "\u001bc"}}"#,
    ] {
        let answer = refused(text);
        assert!(!answer.contains(char::is_control), "{answer:?}");
    }
    let long = format!("{{\"cpus\": \"{}\"}}", "x".repeat(100_000));
    assert!(refused(&long).len() < 300);
}

#[test]
fn relative_names_start_at_the_directory_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("machine.json");
    let text = r#"{"kernel": "vmlinux", "initrd": "../initrd.img", "disk": ["a.img,ro", {"file": "/b.img", "format": "qcow2", "backing": ["c.img", "/d.img"], "data": "e.raw"}], "vsock": "f.sock,cid=4"}"#;
    std::fs::write(&path, text).unwrap();
    let mut config = Config::from_json(&path).unwrap();
    let expected = [
        "vmlinux",
        "../initrd.img",
        "a.img",
        "/b.img",
        "c.img",
        "/d.img",
        "e.raw",
        "f.sock",
    ]
    .map(|name| folder.path().join(name));
    let found: Vec<_> = names(&mut config).map(|name| name.clone()).collect();
    assert_eq!(found, expected);
    assert_eq!(found[3], Path::new("/b.img"));
}

#[test]
fn what_is_out_of_range_in_a_file_is_told_with_the_files_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("machine.json");
    for (text, words) in [
        (r#"{"cpus": 33}"#, "33 vCPUs"),
        (r#"{"memory": "1M"}"#, "memory of 1M"),
        (r#"{"disk": {"file": "a", "queues": 33}}"#, "1 to 32 queues"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = Config::from_json(&path).unwrap_err().to_string();
        assert!(
            error.contains("machine.json\" cannot be used: ") && error.contains(words),
            "{error}"
        );
    }
}

#[test]
fn an_unknown_key_of_a_disk_is_not_answered_with_the_command_lines_rules() {
    let answer = refused(r#"{"disk": {"file": "a", "readonly": true}}"#);
    assert!(!answer.contains("--config"), "{answer}");
}

#[test]
fn a_name_on_which_a_terminal_would_act_is_shown_escaped() {
    let error = Config::from_json(Path::new("\x1b[31m")).unwrap_err().to_string();
    assert!(error.contains(r#"the configuration "\u{1b}[31m""#), "{error}");
}

#[test]
fn a_file_without_end_is_refused() {
    let error = Config::from_json(Path::new("/dev/zero")).unwrap_err().to_string();
    assert!(error.contains("larger than 1 MiB"), "{error}");
}

/// The JSON in a Markdown page: the indented lines from the first that is `{` to the next that is `}`.
fn sample(page: &str) -> String {
    let lines = page.lines().skip_while(|line| line.trim() != "{");
    let mut end = false;
    lines
        .take_while(|line| !std::mem::replace(&mut end, line.trim() == "}"))
        .collect()
}

#[test]
fn the_readmes_sample_is_a_configuration_with_every_key() {
    let text = sample(include_str!("../../README.md"));
    parsed(&text).validate().unwrap();
    let Ok(Json::Object(entries)) = serde_json::from_str(&text) else {
        panic!("{text} is no object");
    };
    let listed: Vec<_> = entries.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(listed, KEYS.iter().map(|key| key.name).collect::<Vec<_>>());
    let disks = entries.iter().find(|(name, _)| name == "disk");
    let Some((_, Json::List(disks))) = disks else {
        panic!("{text} has no list of disks");
    };
    let keys = disks.iter().filter_map(|disk| match disk {
        Json::Object(entries) => Some(entries.iter().map(|(name, _)| name.as_str())),
        _ => None,
    });
    let listed: HashSet<_> = keys.flatten().filter(|&name| name != "file").collect();
    assert_eq!(listed, OPTIONS.iter().map(DiskOption::name).collect());
}

proptest! {
    #[test]
    fn no_bytes_make_parsing_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[\\PC{}\\[\\]\":,]*") {
        let _ = parse(&bytes);
        let _ = parse(text.as_bytes());
    }
}
