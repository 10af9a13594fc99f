//! `coracle run IMAGE`: the root file system of an OCI image, and what the image says of the program in it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use coracle_agent_protocol::Tmpfs;
use coracle_images::store::{Hold, Image, Store};
use coracle_images::{Platform, Reference};

use super::Error;
use crate::commands::habits::NO_SHARED_FOLDERS;
use crate::commands::kill;
use crate::commands::oci::{PullPolicy, obtain};
use crate::commands::system;
use crate::config::{Config, Disk};
use crate::writable_layer;

/// What init mounts as the root, and over it. The disks of the image come first.
const ROOT: &str = "coracle.image=/dev/vda coracle.layer=/dev/vdb";

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The program that COMMAND's words are arguments of, in place of the image's; '' for none
    #[arg(long, value_name = "PROGRAM", requires = "image")]
    entrypoint: Option<OsString>,

    /// Let nothing in the image be written
    #[arg(long, requires = "image")]
    pub read_only: bool,

    /// A file system in memory, at this path of the guest: PATH[:OPTION,...], for example /run:size=64m; again for more
    #[arg(long, value_name = "PATH", requires = "image")]
    tmpfs: Vec<OsString>,

    /// Have this program of the image be PID 1, as the image's systemd: --init=image takes its /sbin/init. Without =WHAT, nothing: Coracle's own init is PID 1 anyway
    #[arg(long, value_name = "WHAT", num_args = 0..=1, require_equals = true, requires = "image")]
    init: Option<Option<String>>,

    /// When the image is pulled [default: missing]
    #[arg(long, value_name = "WHEN", requires = "image")]
    pull: Option<PullPolicy>,

    /// The platform of the image, such as linux/amd64: this host's processor has to run it
    #[arg(long, value_name = "OS/ARCH", requires = "image")]
    platform: Option<Platform>,

    /// Pull by plain HTTP, or without checking certificates
    #[arg(long, requires = "image")]
    insecure: bool,

    /// Show no progress of a pull
    #[arg(short, long, requires = "image")]
    quiet: bool,
}

/// An image that a guest is to run.
pub struct Rooted {
    store: Store,
    image: Image,
    /// What the kernel command line needs.
    pub hints: String,
}

/// Its open files.
pub struct Opened {
    /// Keeps the image in the store.
    pub hold: Hold,
    /// Of each of the disks.
    pub files: Vec<Vec<File>>,
}

impl Options {
    /// Finds the image, or pulls it, and gives `config` its disks. Nothing if none is asked for.
    pub fn obtain(&self, name: Option<&OsStr>, config: &mut Config) -> Result<Option<Rooted>, Error> {
        let refused = |why: &str| Err(Error::Command(why.into()));
        let Some(name) = name else {
            return match self.only_for_images() {
                Some(flag) => Err(Error::Command(format!(
                    "{flag} is for an image: coracle run {flag} ... IMAGE"
                ))),
                None => Ok(None),
            };
        };
        let Some(name) = name.to_str() else {
            return refused("the image's name is no text");
        };
        if config.kernel.is_some() || config.initrd.is_some() {
            return refused("an image runs on the built-in kernel: leave out --kernel and --initrd");
        }
        let (parameters, _) = crate::boot::parameters::split(&config.cmdline);
        if parameters
            .split_ascii_whitespace()
            .any(|word| word.starts_with("root="))
        {
            return refused("the image is the root file system: leave out root= in --cmdline");
        }
        let own = Platform::default();
        let platform = self.platform.as_ref().unwrap_or(&own);
        if !own.takes(platform) {
            return Err(Error::Command(format!(
                "guests run images for {own}, as this host's processor does, and none for {platform}: leave out --platform"
            )));
        }
        let is_reference = name.parse::<Reference>().is_ok();
        if !is_reference && name.contains(":/") {
            return Err(Error::Command(format!(
                "'{}' {NO_SHARED_FOLDERS}",
                name.escape_debug()
            )));
        }
        if !is_reference && Path::new(name).is_dir() {
            return Err(Error::Command(format!(
                "'{}' is a directory, and no image: coracle import DIRECTORY NAME makes an image of a root file system",
                name.escape_debug()
            )));
        }
        if !is_reference && Path::new(name).exists() {
            return Err(Error::Command(format!(
                "'{}' is a file, and no image: a flag says what it is (--disk, --kernel, --initrd or --config, each before its \
                 file); coracle load -i FILE and coracle import FILE NAME make images of archives",
                name.escape_debug()
            )));
        }
        if let Some(Some(init)) = &self.init
            && init.contains(|c: char| c.is_whitespace() || c == '"')
        {
            return refused(
                "--init takes a path without blanks and quotes: it stands on the kernel's command line",
            );
        }
        let pull = self.pull.unwrap_or_default();
        let (store, image) = obtain(name, platform, pull, self.insecure, self.quiet)?;
        config.disks.splice(
            0..0,
            [
                Disk::handed_over(name.into(), true),
                Disk::handed_over("writable layer".into(), false),
            ],
        );
        // For a program the agent makes it read-only, when all is mounted.
        let mode = if self.read_only && self.has_own_init() {
            "ro"
        } else {
            "rw"
        };
        let mut hints = format!(" {ROOT} {mode}");
        if let Some(Some(init)) = &self.init
            && init != "image"
        {
            hints.push_str(&format!(" init={init}"));
        }
        Ok(Some(Rooted { store, image, hints }))
    }

    /// The first flag that only an image gives a meaning.
    fn only_for_images(&self) -> Option<&'static str> {
        let given = [
            (self.entrypoint.is_some(), "--entrypoint"),
            (self.read_only, "--read-only"),
            (self.init.is_some(), "--init"),
            (self.pull.is_some(), "--pull"),
            (self.platform.is_some(), "--platform"),
            (self.insecure, "--insecure"),
            (self.quiet, "--quiet"),
        ];
        let first = given.into_iter().find(|(is_given, _)| *is_given);
        first.map(|(_, flag)| flag)
    }

    /// Whether the image's own init is PID 1, and no program is run.
    pub fn has_own_init(&self) -> bool {
        matches!(self.init, Some(Some(_)))
    }

    /// The words of the command: those of the image where the person gives none.
    pub fn words(&self, rooted: &Rooted, given: &[&OsStr]) -> Result<Vec<Vec<u8>>, Error> {
        let config = rooted.image.configuration.oci.config().as_ref();
        let of_image = |words: Option<&Vec<String>>| -> Vec<Vec<u8>> {
            let words = words.into_iter().flatten();
            words.map(|word| word.clone().into_bytes()).collect()
        };
        let given: Vec<Vec<u8>> = given.iter().map(|word| word.as_bytes().to_vec()).collect();
        let (entrypoint, command) = match &self.entrypoint {
            // The image's command would be arguments of another program.
            Some(program) if program.is_empty() => (Vec::new(), given),
            Some(program) => (vec![program.clone().into_vec()], given),
            None => {
                let entrypoint = of_image(config.and_then(|config| config.entrypoint().as_ref()));
                let command = match given.is_empty() {
                    true => of_image(config.and_then(|config| config.cmd().as_ref())),
                    false => given,
                };
                (entrypoint, command)
            }
        };
        let words = [entrypoint, command].concat();
        match words.is_empty() {
            true => Err(Error::Command(
                "the image says no command to run: give one after its name, for example sh".into(),
            )),
            false => Ok(words),
        }
    }

    /// The file systems in memory.
    pub fn tmpfs(&self) -> Result<Vec<Tmpfs>, Error> {
        let parse = |text: &OsString| {
            let bytes = text.clone().into_vec();
            let (target, options) = match bytes.iter().position(|byte| *byte == b':') {
                Some(colon) => (bytes[..colon].to_vec(), Some(bytes[colon + 1..].to_vec())),
                None => (bytes, None),
            };
            let refused = |why: &str| {
                let text = text.to_string_lossy();
                Err(Error::Command(format!(
                    "--tmpfs '{}': {why}",
                    text.escape_debug()
                )))
            };
            if !target.starts_with(b"/") {
                return refused("give a path that begins with /");
            }
            if Path::new(OsStr::from_bytes(&target)).parent().is_none() {
                return refused("the root is the image; give another path");
            }
            if target.contains(&b',') && options.is_none() {
                return refused("options come behind a colon, for example /run:size=64m");
            }
            Ok(Tmpfs { target, options })
        };
        self.tmpfs.iter().map(parse).collect()
    }
}

impl Rooted {
    /// The variables that the image says.
    pub fn environment(&self) -> Vec<Vec<u8>> {
        let config = self.image.configuration.oci.config().as_ref();
        let variables = config
            .and_then(|config| config.env().as_ref())
            .into_iter()
            .flatten();
        // One without a value says nothing.
        let variables = variables.filter(|entry| entry.find('=').is_some_and(|end| end > 0));
        variables.map(|entry| entry.clone().into_bytes()).collect()
    }

    /// The user that the image says.
    pub fn user(&self) -> Option<Vec<u8>> {
        let config = self.image.configuration.oci.config().as_ref()?;
        of_text(config.user().as_ref())
    }

    /// The directory that the image says.
    pub fn directory(&self) -> Option<Vec<u8>> {
        let config = self.image.configuration.oci.config().as_ref()?;
        of_text(config.working_dir().as_ref())
    }

    /// The signal by which the image's program is asked to end.
    pub fn stop_signal(&self) -> Result<Option<u8>, Error> {
        let config = self.image.configuration.oci.config().as_ref();
        let text = config.and_then(|config| config.stop_signal().as_ref());
        let number = text
            .filter(|text| !text.is_empty())
            .map(|text| kill::signal(text))
            .transpose();
        let number = number.map_err(|why| Error::Command(format!("the image's stop signal: {why}")))?;
        Ok(number.and_then(|number| number.try_into().ok()))
    }

    /// Opens what the disks are made of, and makes the writable layer.
    pub fn open(&self) -> Result<Opened, Error> {
        let mut hold = self.store.hold(&self.image)?;
        let gone = "the image's root file system is no longer in the store; repeat the command";
        let root = hold.root.take().ok_or_else(|| Error::Command(gone.into()))?;
        let image = [root].into_iter().chain(hold.layers.drain(..)).collect();
        let layer = make_layer(self.store.directory())?;
        Ok(Opened {
            hold,
            files: vec![image, vec![layer]],
        })
    }
}

fn of_text(text: Option<&String>) -> Option<Vec<u8>> {
    let text = text.filter(|text| !text.is_empty())?;
    Some(text.clone().into_bytes())
}

/// A writable layer that is gone with this process: a file without a name, where images are, and otherwise among temporary files.
fn make_layer(beside: &Path) -> Result<File, Error> {
    const WHAT: &str = "make the image's writable layer";
    let open = |directory: &Path| {
        let mut options = File::options();
        options
            .read(true)
            .write(true)
            .custom_flags(libc::O_TMPFILE)
            .mode(0o600);
        options.open(directory)
    };
    let file = open(beside)
        .or_else(|_| open(&env::temp_dir()))
        .map_err(system(WHAT))?;
    writable_layer::write(&file).map_err(system(WHAT))?;
    Ok(file)
}
