//! The configuration file: a JSON object whose keys are the names of the flags of `coracle run`.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::error::Category;

use super::disk_option::{DiskOption, OPTIONS, Setting};
use super::nearest::did_you_mean;
use super::{Config, Disk, Error};

/// Bytes that a configuration may have. It bounds what is read of a device, such as /dev/zero, that has no end.
const SIZE_MAX: u64 = 1 << 20;

const DISK_FORM: &str = "a disk: \"FILE[,OPTION]...\" as after --disk, {\"file\": \"root.img\", \"ro\": true}, or a list of these";

/// One key.
pub(super) struct Key {
    pub name: &'static str,
    /// What its value is, with an example.
    form: &'static str,
    set: fn(&mut Config, &Json) -> Result<(), Wrong>,
}

/// Every key that there is.
pub(super) const KEYS: &[Key] = &[
    Key {
        name: "kernel",
        form: "a file name, for example \"vmlinuz\"",
        set: |config, value| {
            config.kernel = Some(value.text()?.into());
            Ok(())
        },
    },
    Key {
        name: "initrd",
        form: "a file name, for example \"initrd.img\"",
        set: |config, value| {
            config.initrd = Some(value.text()?.into());
            Ok(())
        },
    },
    Key {
        name: "cmdline",
        form: "one text with all parameters, for example \"quiet root=/dev/vda\"",
        set: |config, value| {
            config.cmdline = value.text()?.to_owned();
            Ok(())
        },
    },
    Key {
        name: "cpus",
        form: "a number of vCPUs, 1 to 32, without quotation marks",
        set: |config, value| {
            config.cpus = value
                .number()
                .and_then(|number| number.try_into().ok())
                .ok_or(Wrong::Form)?;
            Ok(())
        },
    },
    Key {
        name: "cpu",
        form: "\"host\", or host with features, for example \"host,+vmx\" (the number of vCPUs is given by \"cpus\")",
        set: |config, value| {
            let cpu = value.text()?.parse();
            config.cpu = cpu.map_err(|error: super::cpu::Error| Wrong::Because(error.to_string()))?;
            Ok(())
        },
    },
    Key {
        name: "memory",
        form: "a size, for example \"512M\", or a number of bytes",
        set: |config, value| {
            config.memory = match value.number() {
                Some(bytes) => super::Size(bytes),
                None => value.text()?.parse().map_err(|_| Wrong::Form)?,
            };
            Ok(())
        },
    },
    Key {
        name: "disk",
        form: DISK_FORM,
        set: |config, value| {
            config.disks = disks(value)?;
            Ok(())
        },
    },
    Key {
        name: "vsock",
        form: "a path of a socket, for example \"guest.sock\" or \"guest.sock,cid=4\"",
        set: |config, value| {
            let vsock = value.text()?.parse();
            config.vsock =
                Some(vsock.map_err(|error: super::vsock::Error| Wrong::Because(error.to_string()))?);
            Ok(())
        },
    },
    Key {
        name: "on-reboot",
        form: "\"exit\" or \"restart\"",
        set: |config, value| {
            config.on_reboot = ValueEnum::from_str(value.text()?, false).map_err(|_| Wrong::Form)?;
            Ok(())
        },
    },
    Key {
        name: "confine",
        form: "\"auto\", \"require\" or \"off\"",
        set: |config, value| {
            config.confine = ValueEnum::from_str(value.text()?, false).map_err(|_| Wrong::Form)?;
            Ok(())
        },
    },
    Key {
        name: "host-user",
        form: "a user and a group by their numbers, for example \"65534:65534\"",
        set: |config, value| {
            config.host_user = Some(value.text()?.parse().map_err(|_| Wrong::Form)?);
            Ok(())
        },
    },
    Key {
        name: "no-escape",
        form: "true or false",
        set: |config, value| {
            config.no_escape = value.flag()?;
            Ok(())
        },
    },
];

/// Why a value cannot be taken.
enum Wrong {
    /// It is not of the form that its key needs.
    Form,
    /// It has a fault of its own.
    Because(String),
}

/// Reads a configuration. Names of files in it that are relative start at its own directory.
pub(super) fn read(path: &Path) -> Result<Config, Error> {
    let failed = |source| Error::Read {
        path: path.into(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    // A pipe has no directory that a person would think of: there the working directory takes its place.
    let is_regular = file.metadata().map_err(failed)?.is_file();
    let mut text = Vec::new();
    file.take(SIZE_MAX + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > SIZE_MAX {
        return Err(failed(io::Error::other("it is larger than 1 MiB")));
    }
    let refused = |why| Error::File {
        path: path.into(),
        why,
    };
    let mut config = parse(&text).map_err(refused)?;
    if is_regular && let Some(directory) = path.parent() {
        for name in names(&mut config) {
            *name = directory.join(&*name);
        }
    }
    // Checked here, too, and not only together with the flags: then the error names the file.
    config.validate().map_err(|error| refused(error.to_string()))?;
    Ok(config)
}

/// Every name of a file in a configuration.
fn names(config: &mut Config) -> impl Iterator<Item = &mut PathBuf> {
    let disks = config.disks.iter_mut().flat_map(|disk| {
        [&mut disk.file]
            .into_iter()
            .chain(disk.backing.files_mut())
            .chain(&mut disk.data)
    });
    let vsock = config.vsock.iter_mut().filter_map(|vsock| vsock.path.as_mut());
    let boot = config.kernel.iter_mut().chain(&mut config.initrd);
    boot.chain(disks).chain(vsock)
}

fn parse(text: &[u8]) -> Result<Config, String> {
    if text.trim_ascii().is_empty() {
        return Err("it is empty, and the least that it can be is {}".into());
    }
    let entries = match serde_json::from_slice(text).map_err(|error| not_json(text, &error))? {
        Json::Object(entries) => entries,
        other => {
            return Err(format!(
                "it must be an object, for example {{\"cpus\": 2, \"memory\": \"1G\"}}, not {other}"
            ));
        }
    };
    let mut config = Config::default();
    for (name, value) in present(&entries)? {
        let key = KEYS.iter().find(|key| key.name == name).ok_or_else(|| {
            let names = || KEYS.iter().map(|key| key.name);
            format!(
                "it has the unknown key {}{} (the keys are {})",
                shown(name),
                did_you_mean(name, names()),
                names().collect::<Vec<_>>().join(", ")
            )
        })?;
        (key.set)(&mut config, value).map_err(|wrong| match wrong {
            Wrong::Form => format!("'{name}' must be {}, not {value}", key.form),
            Wrong::Because(why) => why,
        })?;
    }
    Ok(config)
}

/// What is wrong with a text that is not JSON.
fn not_json(text: &[u8], error: &serde_json::Error) -> String {
    let line = text
        .split(|&byte| byte == b'\n')
        .nth(error.line().saturating_sub(1));
    let at = line.and_then(|line| line.get(error.column().saturating_sub(1)));
    match (error.classify(), at) {
        (Category::Eof, _) => format!(
            "it ends in line {} although a bracket or a quotation mark is still open: close it",
            error.line()
        ),
        (_, Some(b'/' | b'#')) => format!(
            "line {} has a comment, which JSON does not allow: take it out",
            error.line()
        ),
        _ => format!("it is not JSON: {error} (correct it there)"),
    }
}

fn disks(value: &Json) -> Result<Vec<Disk>, Wrong> {
    match value {
        Json::List(values) => values.iter().map(disk).collect(),
        one => Ok(vec![disk(one)?]),
    }
}

fn disk(value: &Json) -> Result<Disk, Wrong> {
    match value {
        Json::Object(entries) => disk_object(entries),
        value => value
            .text()?
            .parse()
            .map_err(|error: Error| Wrong::Because(error.to_string())),
    }
}

fn disk_object(entries: &Entries) -> Result<Disk, Wrong> {
    let mut disk = Disk::new(PathBuf::new());
    for (name, value) in present(entries).map_err(Wrong::Because)? {
        let wrong = |form: &str| Wrong::Because(format!("'{name}' of a disk must be {form}, not {value}"));
        let refused = |why| Wrong::Because(format!("'{name}' of a disk: {why}"));
        if name == "file" {
            disk.file = value.text().map_err(|_| wrong("a file name"))?.into();
            continue;
        }
        let names = || {
            let names: Vec<_> = OPTIONS.iter().map(DiskOption::name).collect();
            format!("the keys of a disk are file, {}", names.join(", "))
        };
        let option = DiskOption::find(name, names).map_err(Wrong::Because)?;
        match (&option.setting, value) {
            (Setting::Flag(set), _) => set(&mut disk, value.flag().map_err(|_| wrong("true or false"))?),
            (Setting::Values(set), Json::List(values)) => {
                if values.is_empty() {
                    return Err(wrong("a list with at least one text"));
                }
                for value in values {
                    let text = value.text().map_err(|_| wrong("a text or a list of texts"))?;
                    set(&mut disk, text).map_err(refused)?;
                }
            }
            (Setting::Value(set) | Setting::Values(set), _) => {
                let number = value.number().map(|number| number.to_string());
                let text = number.as_deref().map_or_else(|| value.text(), Ok);
                set(&mut disk, text.map_err(|_| wrong("a text or a number"))?).map_err(refused)?;
            }
        }
    }
    if disk.file.as_os_str().is_empty() {
        let options: Vec<_> = OPTIONS.iter().map(DiskOption::name).collect();
        return Err(Wrong::Because(format!(
            "a disk has no 'file', which every disk needs (its other keys are {})",
            options.join(", ")
        )));
    }
    Ok(disk)
}

type Entries = Vec<(String, Json)>;

/// The entries that have a value. A key that stands twice is an error, since one of its values would be lost.
fn present(entries: &Entries) -> Result<Vec<(&str, &Json)>, String> {
    let mut seen = HashSet::new();
    if let Some((name, _)) = entries.iter().find(|(name, _)| !seen.insert(name)) {
        return Err(format!(
            "the key {} stands twice: give it once (several disks are one list)",
            shown(name)
        ));
    }
    let values = entries
        .iter()
        .filter(|(_, value)| !matches!(value, Json::Plain(Value::Null)));
    Ok(values.map(|(name, value)| (name.as_str(), value)).collect())
}

/// Any JSON, with the keys of objects as they stand: a map would keep only the last of two equal keys.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Json {
    Object(#[serde(deserialize_with = "entries")] Entries),
    List(Vec<Json>),
    Plain(Value),
}

impl Json {
    fn text(&self) -> Result<&str, Wrong> {
        match self {
            Self::Plain(Value::String(text)) => Ok(text),
            _ => Err(Wrong::Form),
        }
    }

    fn flag(&self) -> Result<bool, Wrong> {
        match self {
            Self::Plain(Value::Bool(flag)) => Ok(*flag),
            _ => Err(Wrong::Form),
        }
    }

    fn number(&self) -> Option<u64> {
        match self {
            Self::Plain(value) => value.as_u64(),
            _ => None,
        }
    }
}

/// The beginning of a text in quotation marks, without anything that could steer a terminal.
fn shown(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// What it is, for messages.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Object(_) => f.write_str("an object"),
            Self::List(_) => f.write_str("a list"),
            Self::Plain(Value::String(text)) => write!(f, "the text {}", shown(text)),
            Self::Plain(value) => value.fmt(f),
        }
    }
}

fn entries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Entries, D::Error> {
    struct Object;

    impl<'de> Visitor<'de> for Object {
        type Value = Entries;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Entries, M::Error> {
            let mut entries = Vec::new();
            while let Some(entry) = map.next_entry()? {
                entries.push(entry);
            }
            Ok(entries)
        }
    }

    deserializer.deserialize_map(Object)
}

#[cfg(test)]
#[path = "file_test.rs"]
mod tests;
