//! The options of a disk: on the command line they follow its file behind commas, in a configuration file they are the
//! keys of its object.

use std::str::FromStr;

use clap::ValueEnum;

use super::nearest::did_you_mean;
use super::{DISK_QUEUES_MAX, Disk, Error};

/// One option.
pub(crate) struct DiskOption {
    /// How it is written on the command line: its name, and after `=` what its value can be.
    pub form: &'static str,
    pub setting: Setting,
}

/// What an option does to a disk.
pub(crate) enum Setting {
    /// It has no value on the command line, and is true or false in JSON.
    Flag(fn(&mut Disk, bool)),
    /// It has one value.
    Value(fn(&mut Disk, &str) -> Result<(), String>),
    /// It has any number of values: given again on the command line, a list in JSON.
    Values(fn(&mut Disk, &str) -> Result<(), String>),
}

/// Every option that there is.
pub(crate) const OPTIONS: &[DiskOption] = &[
    flag("ro", |disk, on| disk.ro = on),
    flag("ephemeral", |disk, on| disk.ephemeral = on),
    value("limit=SIZE", |disk, text| {
        disk.limit = Some(text.parse().map_err(|error: Error| error.to_string())?);
        Ok(())
    }),
    value("format=raw|qcow2", |disk, text| {
        let convert = "; qemu-img convert -O qcow2 FILE NEW makes a disk of another format";
        disk.format = Some(one_of(text).map_err(|why| why + convert)?);
        Ok(())
    }),
    DiskOption {
        form: "backing=FILE|any",
        setting: Setting::Values(|disk, text| disk.backing.add(text)),
    },
    value("data=FILE", |disk, text| match text {
        "" => Err("'data=' needs the name of a file (the one with the image's data)".into()),
        file => {
            disk.data = Some(file.into());
            Ok(())
        }
    }),
    value("cache=writeback|direct|writethrough", |disk, text| {
        disk.cache = one_of(text)?;
        Ok(())
    }),
    value("engine=auto|sync|uring", |disk, text| {
        disk.engine = one_of(text)?;
        Ok(())
    }),
    value("queues=N", |disk, text| {
        let number = text.parse().map_err(|_| {
            format!(
                "'{}' is not a number of queues (give one from 1 to {DISK_QUEUES_MAX})",
                text.escape_debug()
            )
        })?;
        disk.queues = Some(number);
        Ok(())
    }),
    value("id=NAME", |disk, text| {
        disk.id = Some(text.to_owned());
        Ok(())
    }),
];

const fn flag(form: &'static str, set: fn(&mut Disk, bool)) -> DiskOption {
    DiskOption {
        form,
        setting: Setting::Flag(set),
    }
}

const fn value(form: &'static str, set: fn(&mut Disk, &str) -> Result<(), String>) -> DiskOption {
    DiskOption {
        form,
        setting: Setting::Value(set),
    }
}

impl DiskOption {
    pub fn name(&self) -> &'static str {
        self.form.split_once('=').map_or(self.form, |(name, _)| name)
    }

    /// The option of this name. If there is none, the error tells the nearest name that there is, and `advice`.
    pub fn find(name: &str, advice: impl FnOnce() -> String) -> Result<&'static Self, String> {
        let found = OPTIONS.iter().find(|option| option.name() == name);
        found.ok_or_else(|| {
            let nearest = did_you_mean(name, OPTIONS.iter().map(Self::name));
            let name = name.escape_debug();
            format!("'{name}' is not an option of a disk{nearest} ({})", advice())
        })
    }

    fn set(&self, disk: &mut Disk, value: Option<&str>) -> Result<(), String> {
        match (&self.setting, value) {
            (Setting::Flag(set), None) => {
                set(disk, true);
                Ok(())
            }
            (Setting::Flag(_), Some(_)) => Err(format!("'{0}' has no value: write '{0}' alone", self.name())),
            (Setting::Value(set) | Setting::Values(set), Some(value)) => {
                set(disk, value).map_err(|why| format!("'{}': {why}", self.name()))
            }
            (Setting::Value(_) | Setting::Values(_), None) => {
                Err(format!("'{}' needs a value: {}", self.name(), self.form))
            }
        }
    }
}

/// Reads `FILE[,OPTION]...`.
impl FromStr for Disk {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |why: String| Error::Disk {
            disk: text.to_owned(),
            why,
        };
        let mut parts = text.split(',');
        let file = parts
            .next()
            .filter(|file| !file.is_empty())
            .ok_or_else(|| wrong("it names no file: begin with one, as in data.img,ro".into()))?;
        let mut disk = Self::new(file.into());
        let mut given = Vec::new();
        for option in parts {
            set(&mut disk, option, &mut given).map_err(wrong)?;
        }
        Ok(disk)
    }
}

/// Sets what stands between two commas. `given` has the names of the options before it.
fn set<'t>(disk: &mut Disk, text: &'t str, given: &mut Vec<&'t str>) -> Result<(), String> {
    if text.is_empty() {
        return Err("no option follows a comma: leave the comma out, or write an option behind it".into());
    }
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    let option = DiskOption::find(name, || {
        let forms: Vec<_> = OPTIONS.iter().map(|option| option.form).collect();
        format!(
            "the options are {}; a file with a comma in its name can only be given in a --config file, as \
             {{\"file\": \"a,b.img\"}}",
            forms.join(", ")
        )
    })?;
    if !matches!(option.setting, Setting::Values(_)) {
        if given.contains(&name) {
            return Err(format!("'{name}' is given twice: give it once"));
        }
        given.push(name);
    }
    option.set(disk, value)
}

/// The value of an option that has few.
fn one_of<T: ValueEnum>(text: &str) -> Result<T, String> {
    T::from_str(text, false).map_err(|_| {
        let values = T::value_variants().iter().filter_map(T::to_possible_value);
        let names: Vec<String> = values.map(|value| value.get_name().to_owned()).collect();
        format!(
            "'{}' is no value that it can have: write one of {}",
            text.escape_debug(),
            names.join(", ")
        )
    })
}
