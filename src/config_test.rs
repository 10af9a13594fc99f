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
fn a_size_is_written_with_the_largest_unit_that_fits_it() {
    for text in ["512G", "4G", "1536M", "128M", "64K", "1025K"] {
        assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
    }
    assert_eq!(Size(1).to_string(), "1 bytes");
    assert_eq!(Size(0).to_string(), "0 bytes");
    let said = Error::Memory(1000 << 30).to_string();
    assert!(said.starts_with("memory of 1000G is out of range"), "{said}");
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
    let limited: Disk = "a,ephemeral,limit=2G".parse().unwrap();
    assert_eq!(limited.limit(), Size(2 << 30));
    assert!("a,limit=much".parse::<Disk>().is_err());
    for (text, named) in [
        ("a,engine=fast", "auto, sync, uring"),
        ("a,cache=none", "writeback, direct, writethrough"),
        ("a,format=vmdk", "one of raw, qcow2; qemu-img convert -O"),
        ("a,", "leave the comma out"),
        ("a,,ro", "leave the comma out"),
        ("a,id=a,id=b", "'id' is given twice"),
        ("a,ro,id=a,ro", "'ro' is given twice"),
        ("a,cache=direct,cache=direct", "'cache' is given twice"),
        ("", "begin with one"),
        ("a,queues=two", "'two'"),
        ("a,ro=", "'ro'"),
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
fn a_misspelt_disk_option_is_answered_with_the_nearest() {
    for (text, answer) in [
        ("a,ephmeral", "did you mean 'ephemeral'?"),
        ("a,Cache=direct", "did you mean 'cache'?"),
        ("a,ro=yes", "'ro' has no value"),
        (
            "a,cache",
            "'cache' needs a value: cache=writeback|direct|writethrough",
        ),
        ("a,b.img", "{\"file\": \"a,b.img\"}"),
    ] {
        let error = text.parse::<Disk>().unwrap_err().to_string();
        assert!(error.contains(answer), "{text}: {error}");
    }
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
}

#[test]
fn a_data_file_is_one_file_of_a_qcow2_image() {
    let disk = |text: &str| text.parse::<Disk>().unwrap();
    assert_eq!(disk("a").data, None);
    assert!("a.qcow2,data=b,data=c".parse::<Disk>().is_err());
    assert_eq!(disk("a.qcow2,data=b=c,ro").data, Some("b=c".into()));
    assert!("a.qcow2,data=".parse::<Disk>().is_err() && "a.qcow2,data".parse::<Disk>().is_err());
    for (text, is_taken) in [
        ("a.qcow2,data=b", true),
        ("a,format=qcow2,data=b", true),
        ("a,data=b", false),
        ("a.qcow2,format=raw,data=b", false),
    ] {
        let config = Config {
            disks: vec![disk(text)],
            ..Config::default()
        };
        assert_eq!(config.validate().is_ok(), is_taken, "{text}");
    }
}

#[test]
fn a_number_without_its_unit_is_answered_with_the_likely_one() {
    let answer = |bytes| {
        let config = Config {
            memory: Size(bytes),
            ..Config::default()
        };
        config.validate().unwrap_err().to_string()
    };
    assert!(answer(512).ends_with("did you mean 512M?"), "{}", answer(512));
    assert!(answer(2).ends_with("did you mean 2G?"), "{}", answer(2));
    assert!(answer(2048).ends_with("did you mean 2048M?"), "{}", answer(2048));
    let kibibytes = answer(512 << 10);
    assert!(kibibytes.ends_with("did you mean 512M?"), "{kibibytes}");
    for nothing in [0, MIB, 600_000, u64::MAX] {
        assert!(!answer(nothing).contains("did you mean"), "{}", answer(nothing));
    }
}

/// The option names in a text such as `FILE[,ro][,id=NAME]`.
fn options_in(synopsis: &str) -> Vec<&str> {
    let parts = synopsis.split("[,").skip(1);
    parts.filter_map(|part| part.split([']', '=']).next()).collect()
}

#[test]
fn the_page_about_disks_begins_with_every_option() {
    let page = include_str!("../docs/disks.md");
    let synopsis = page.lines().find(|line| line.contains("--disk FILE[,")).unwrap();
    let mut listed = options_in(synopsis);
    let mut options: Vec<_> = disk_option::OPTIONS.iter().map(|option| option.name()).collect();
    listed.sort_unstable();
    options.sort_unstable();
    assert_eq!(listed, options);
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
        "a.qcow2,engine=uring",
        "a,limit=1G",
        "a,ephemeral,limit=0",
        "a,ephemeral,limit=4095",
        "a,backing=any",
        "a,ephemeral,backing=b",
        "a.qcow2,format=raw,backing=any",
    ] {
        assert!(refused(&|c| c.disks = vec![disk.parse().unwrap()]), "{disk}");
    }
    for disk in [
        "a.qcow2,format=raw,engine=uring",
        "a,ephemeral,limit=4K",
        "a,format=qcow2,backing=any",
    ] {
        assert!(!refused(&|c| c.disks = vec![disk.parse().unwrap()]), "{disk}");
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
    }
}
