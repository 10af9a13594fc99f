use proptest::prelude::*;

use super::*;

#[test]
fn sizes_are_read_with_and_without_units() {
    for (text, bytes) in [
        ("4096", 4096),
        ("1k", 1024),
        ("512M", 512 * MIB),
        ("512MiB", 512 * MIB),
        ("2g", 2048 * MIB),
    ] {
        assert_eq!(text.parse::<Size>().unwrap(), Size(bytes), "{text}");
    }
}

#[test]
fn sizes_that_are_no_sizes_are_refused() {
    for text in [
        "",
        "M",
        "-1M",
        "1.5G",
        "12X",
        "99999999999999999999",
        "99999999999T",
        "1 G",
        "é",
    ] {
        assert!(text.parse::<Size>().is_err(), "{text}");
    }
}

#[test]
fn a_disk_is_a_file_with_options() {
    let disk: Disk = "root.img,ro,id=root".parse().unwrap();
    let plain = Disk::new("root.img".into());
    assert_eq!(
        disk,
        Disk {
            ro: true,
            id: Some("root".into()),
            ..plain.clone()
        }
    );
    let disk: Disk = "root.img,engine=uring,cache=direct,queues=2,format=raw"
        .parse()
        .unwrap();
    assert_eq!(
        disk,
        Disk {
            engine: Engine::Uring,
            cache: Cache::Direct,
            queues: Some(2),
            format: Some(Format::Raw),
            ..plain
        }
    );
    assert!("a,ephemeral".parse::<Disk>().unwrap().ephemeral);
    for (text, named) in [
        ("a,engine=fast", "auto, sync, uring"),
        ("a,cache=none", "writeback, direct, writethrough"),
        ("a,format=vmdk", "raw, qcow2"),
        ("a,queues=two", "'two'"),
        ("a,ro=", "'ro='"),
    ] {
        let error = text.parse::<Disk>().unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
    assert!("".parse::<Disk>().is_err());
    assert!(",ro".parse::<Disk>().is_err());
    assert!(
        "root.img,rw"
            .parse::<Disk>()
            .unwrap_err()
            .to_string()
            .contains("'rw'")
    );
}

#[test]
fn json_has_the_keys_of_the_flags() {
    let config: Config = serde_json::from_str(
        r#"{"kernel": "vmlinux", "cpus": 4, "memory": "1G", "cmdline": "quiet", "on-reboot": "restart",
            "no-escape": true, "disk": [{"file": "a.img", "ro": true, "id": "a", "cache": "direct"}]}"#,
    )
    .unwrap();
    assert_eq!(config.memory, Size(1024 * MIB));
    assert_eq!(config.on_reboot, OnReboot::Restart);
    assert_eq!(config.disks[0].id.as_deref(), Some("a"));
    assert_eq!(config.disks[0].cache, Cache::Direct);
    config.validate().unwrap();
}

#[test]
fn backing_files_are_a_list_or_any() {
    let backing = |text: &str| text.parse::<Disk>().map(|disk| disk.backing);
    let named = |files: &[&str]| Backing::Named(files.iter().map(PathBuf::from).collect());
    assert_eq!(backing("a").unwrap(), Backing::Beside);
    assert_eq!(backing("a,backing=any").unwrap(), Backing::Any);
    assert_eq!(backing("a,backing=./any").unwrap(), named(&["./any"]));
    assert_eq!(
        backing("a,backing=b=c,ro,backing=/d").unwrap(),
        named(&["b=c", "/d"])
    );
    for text in [
        "a,backing=",
        "a,backing",
        "a,backing=any,backing=b",
        "a,backing=b,backing=any",
    ] {
        assert!(
            backing(text).unwrap_err().to_string().contains("backing"),
            "{text}"
        );
    }
    let json = |text: &str| serde_json::from_str::<Disk>(text).map(|disk| disk.backing);
    assert_eq!(json(r#"{"file": "a"}"#).unwrap(), Backing::Beside);
    assert_eq!(json(r#"{"file": "a", "backing": "any"}"#).unwrap(), Backing::Any);
    assert_eq!(
        json(r#"{"file": "a", "backing": ["b", "c"]}"#).unwrap(),
        named(&["b", "c"])
    );
    let error = json(r#"{"file": "a", "backing": "b"}"#).unwrap_err().to_string();
    assert!(error.contains(r#"["b"]"#), "{error}");
    let error = json(r#"{"file": "a", "backing": 1}"#).unwrap_err().to_string();
    assert!(error.contains("a list of files"), "{error}");
}

#[test]
fn an_unknown_key_is_an_error_that_names_it() {
    for text in [r#"{"kernal": "x"}"#, r#"{"disk": [{"file": "a", "kernal": 1}]}"#] {
        let error = serde_json::from_str::<Config>(text).unwrap_err();
        assert!(error.to_string().contains("kernal"), "{error}");
    }
}

#[test]
fn machines_that_cannot_be_are_refused() {
    let refused = |change: &dyn Fn(&mut Config)| {
        let mut config = Config::default();
        change(&mut config);
        config.validate().is_err()
    };
    assert!(!refused(&|_| ()));
    assert!(refused(&|c| c.cpus = 0));
    assert!(refused(&|c| c.cpus = 33));
    assert!(refused(&|c| c.memory = Size(16 * MIB)));
    assert!(refused(&|c| c.memory = Size(u64::MAX)));
    assert!(refused(&|c| c.memory = Size(64 * MIB + 1)));
    assert!(refused(
        &|c| c.disks = vec!["a,id=123456789012345678901".parse().unwrap()]
    ));
    assert!(refused(&|c| c.disks = vec!["a,id=".parse().unwrap()]));
    for disk in [
        "a,queues=0",
        "a,queues=33",
        "a,ro,ephemeral",
        "a,ephemeral,cache=direct",
        "a,ephemeral,engine=uring",
        "a,format=qcow2,engine=uring",
    ] {
        assert!(refused(&|c| c.disks = vec![disk.parse().unwrap()]), "{disk}");
    }
    assert!(refused(
        &|c| c.disks = (0..17).map(|i| format!("d{i}").parse().unwrap()).collect()
    ));
}

proptest! {
    #[test]
    fn no_text_makes_parsing_panic(text in "\\PC*") {
        let _ = text.parse::<Size>();
        let _ = text.parse::<Disk>();
        let _ = serde_json::from_str::<Config>(&text);
    }
}
