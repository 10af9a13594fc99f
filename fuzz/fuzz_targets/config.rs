//! Any configuration file, and the same text as the values of flags.
#![no_main]

use std::sync::LazyLock;

use clap::Parser;
use coracle::commands::Cli;
use coracle::config::{Backing, Config, Cpu, Disk, Error, MIB, Size};
use coracle_fuzz::MemoryFile;
use libfuzzer_sys::fuzz_target;

static FILE: LazyLock<MemoryFile> = LazyLock::new(MemoryFile::default);

fuzz_target!(|bytes: &[u8]| {
    FILE.replace(bytes);
    match Config::from_json(&FILE.path()) {
        Ok(config) => validate(&config),
        Err(error) => assert!(matches!(error, Error::File { .. }), "{error}"),
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        parse_size(text);
        parse_disk(text);
        parse_cpu(text);
        parse_arguments(text);
    }
});

fn validate(config: &Config) {
    match config.validate() {
        Ok(()) => {
            let Size(memory) = config.memory;
            assert!((32 * MIB..=512 << 30).contains(&memory) && memory.is_multiple_of(4096));
            assert!((1..=32).contains(&config.cpus) && config.disks.len() <= 16);
            let ids = config.disks.iter().filter_map(|disk| disk.id.as_deref());
            ids.for_each(|id| assert!((1..=20).contains(&id.len()) && id.is_ascii(), "{id:?}"));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn parse_size(text: &str) {
    match text.parse() {
        Ok(Size(bytes)) => {
            assert_eq!(bytes.to_string().parse::<Size>().ok(), Some(Size(bytes)));
            let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
            let number: u64 = digits.parse().expect("a size starts with a number");
            assert!(
                bytes >= number && (number == 0 || (bytes / number).is_power_of_two()),
                "{text}"
            );
        }
        Err(error) => assert!(matches!(error, Error::Size(_))),
    }
}

fn parse_disk(text: &str) {
    match text.parse::<Disk>() {
        Ok(disk) => {
            let mut again = disk.file.display().to_string();
            if disk.ro {
                again += ",ro";
            }
            if disk.ephemeral {
                again += ",ephemeral";
            }
            let mut write = |name: &str, value: String| again += &format!(",{name}={value}");
            if let Some(Size(limit)) = disk.limit {
                write("limit", limit.to_string());
            }
            if let Some(id) = &disk.id {
                write("id", id.clone());
            }
            if let Some(queues) = disk.queues {
                write("queues", queues.to_string());
            }
            write("engine", format!("{:?}", disk.engine).to_lowercase());
            write("cache", format!("{:?}", disk.cache).to_lowercase());
            if let Some(format) = disk.format {
                write("format", format!("{format:?}").to_lowercase());
            }
            match &disk.backing {
                Backing::Beside => (),
                Backing::Named(files) => files
                    .iter()
                    .for_each(|file| write("backing", file.display().to_string())),
                Backing::Any => write("backing", "any".into()),
            }
            assert_eq!(again.parse().ok(), Some(disk));
        }
        Err(error) => assert!(matches!(error, Error::Disk { .. })),
    }
}

fn parse_cpu(text: &str) {
    if let Ok(cpu) = text.parse::<Cpu>() {
        assert_eq!(cpu.to_string().parse::<Cpu>().ok(), Some(cpu), "{text}");
    }
}

/// A line of the text is an argument.
fn parse_arguments(text: &str) {
    if let Err(error) = Cli::try_parse_from(["coracle"].into_iter().chain(text.lines())) {
        assert!(!error.to_string().is_empty());
    }
}
