//! `coracle run`: boots a guest and waits until it ends.

mod boots;
mod command;
mod confinement;
mod detached;
mod image;
mod program;

use std::env;
use std::mem;
use std::path::PathBuf;
use std::time::Duration;

use coracle_agent_protocol::Program;

use super::number::number;
use super::{Error, print};
use crate::config::{CPUS_MAX, Config, Confine, Cpu, Disk, OnReboot, Size, User, Vsock};
use crate::confine;
use crate::console::{Console, Work, ignore_file_size_limit, leave_to_parent, tell};
use crate::diagnosis::Diagnosis;
use crate::guests::{Made, Name, Own};
use crate::machine::{DryRun, LimitReached};
use crate::timeline::{Phase, Timeline};
use crate::timings::{Destination, Report, ReportWriter};
use boots::{Boots, console_hints, with_service};
use command::Command;
use detached::{Inherited, Side};
use image::Rooted;

/// Boot a guest and attach its console to this terminal
///
/// Without --kernel, the built-in guest boots: it gives a shell on a terminal, and a short demonstration anywhere else.
/// The guest's output goes to stdout unchanged, Coracle's own messages go to stderr.
#[derive(Debug, clap::Args)]
#[command(override_usage = "\
coracle run [OPTIONS] IMAGE [COMMAND] [ARGUMENT]...
       coracle run [OPTIONS] [-- COMMAND [ARGUMENT]...]")]
#[command(after_help = "\
Examples:
  coracle run
      a shell in the built-in guest
  coracle run --cpus 4 --memory 1G --disk data.img --disk tools.img,ro,id=tools
      the same with two disks, /dev/vda and a read-only /dev/vdb
  coracle run -it debian:12 bash
      an image, with a kernel of its own; the image is pulled if it is not here
  coracle run -- uname -a
      one command in the built-in guest; coracle exits with its status
  tar c . | coracle run -e LANG=C -- sh -c 'tar x && ls'
      the command reads stdin, and gets a variable
  coracle run --kernel vmlinuz --initrd initrd.img --disk root.img --cmdline root=/dev/vda
      any Linux kernel, for example /boot/vmlinuz-6.1.0-37-amd64: a bzImage, or an ELF vmlinux
  coracle run --vsock guest.sock --kernel vmlinuz --initrd initrd.img
      programs of this host reach the guest's vsock ports through guest.sock
  coracle run --timings=boot.svg --cmdline '-- true'
      where the time of a boot goes, as a picture; figures with boot.json, a table without a file
  coracle run --config machine.json
      options from a file, for example {\"cpus\": 2, \"disk\": \"root.img,ro\"}

On a terminal Ctrl-A is the escape key: Ctrl-A x quits, Ctrl-A h lists all keys, Ctrl-A Ctrl-A sends a Ctrl-A to the \
guest. All other keys, also Ctrl-C, go to the guest.

With a COMMAND coracle exits with its status: 128+N if signal N ended it, 126 if it cannot be executed, 127 if there is no \
such program. A second SIGTERM ends the guest although the command does not obey.

Exit codes: 0 powered off, 100 rebooted, 101 a bug in Coracle, 102 to 106 kernel panic, 110 triple fault, \
111 KVM error, 112 quit, 113 halted, 114 stopped by its own filter, 125 Coracle failed, 126 this host cannot run it, 127 a file is missing, \
141 nobody reads the output any more, 128+N ended by signal N.")]
pub struct Args {
    /// Kernel image: bzImage or ELF vmlinux, recognised by content [default: the built-in one]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// Initial RAM disk [default: the built-in one with the built-in kernel, otherwise none]
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,

    /// Text for the end of the kernel command line, for example 'quiet root=/dev/vda'
    ///
    /// What follows the word -- is for init: the built-in guest runs it as a command, for example '-- ls -l'.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    cmdline: Option<String>,

    /// Number of vCPUs, 1 to 32 [default: 1]
    #[arg(long, value_name = "N", value_parser = number(1..=CPUS_MAX))]
    cpus: Option<u8>,

    /// Features of the vCPUs, for example host,+vmx [default: host]
    ///
    /// host stands for the features of this host's processor that programs and
    /// kernels commonly use. +NAME adds a feature, -NAME takes it away again:
    ///
    ///   vmx, svm  hardware virtualization of Intel and of AMD, for a guest that
    ///             runs virtual machines itself
    ///   pmu       performance counters, for perf in the guest
    #[arg(long, value_name = "host[,+FEATURE]...", verbatim_doc_comment)]
    cpu: Option<Cpu>,

    /// Guest memory: a number of bytes or one with a unit, for example 512M or 2G; 32M to 512G [default: 128M]
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<Size>,

    /// A disk: an image file or a block device; again for more
    ///
    /// Without an initrd, and without root= in --cmdline, the first disk is
    /// the root file system. After FILE, each behind a comma:
    ///
    ///   ro                the guest cannot write it
    ///   ephemeral         what the guest writes is gone at the end of the run
    ///   limit=SIZE        what an ephemeral disk may take up [default: 4G]
    ///   format=raw|qcow2  what FILE is [default: qcow2 if its name ends in
    ///                     .qcow2, else raw]
    ///   backing=FILE|any  which backing file a qcow2 FILE may have opened; again
    ///                     for more [default: images in its own directory]
    ///   data=FILE         the data file of a qcow2 FILE that keeps its data
    ///                     outside of itself
    ///   cache=writeback|direct|writethrough
    ///                     where a write waits until the guest flushes: in the
    ///                     host's page cache, in the device's own cache,
    ///                     nowhere [default: writeback]
    ///   engine=auto|sync|uring
    ///                     how requests reach the host's kernel: uring gives
    ///                     it many at once [default: auto; --dry-run says why]
    ///   queues=N          1 to 32 [default: one for each vCPU, up to 4]
    ///   id=NAME           its serial number in the guest, up to 20 characters
    #[arg(long = "disk", value_name = "FILE[,OPTION]...", verbatim_doc_comment)]
    disks: Vec<Disk>,

    /// A socket by which programs of this host connect to programs of the guest
    ///
    /// A program that connects to PATH and writes 'CONNECT PORT' and a newline
    /// is connected to that vsock port of the guest; it reads 'OK' with a
    /// number and a newline first. Behind a comma:
    ///
    ///   cid=N             the guest's vsock address [default: 3]
    #[arg(long, value_name = "PATH[,cid=N]", verbatim_doc_comment)]
    vsock: Option<Vsock>,

    /// What a guest's reboot does: end the run with exit code 100, or boot again [default: exit]
    #[arg(long, value_name = "WHAT")]
    on_reboot: Option<OnReboot>,

    /// How far Coracle's own process is confined before the guest runs [default: auto]
    ///
    /// A confined process can open no file and make no connection, has none
    /// of root's capabilities, and leaves no core dump: a guest that breaks out
    /// of its machine finds little to use.
    ///
    ///   auto     as far as this host can; coracle doctor says how far that is
    ///   require  in every way; where the host cannot, the guest does not run
    ///   off      not at all, to find out whether confinement is in the way
    #[arg(
        long,
        value_name = "auto|require|off",
        hide_possible_values = true,
        verbatim_doc_comment
    )]
    confine: Option<Confine>,

    /// The user and group of this host, by number, that this process becomes once all files are open; needs root
    ///
    /// Without :GID the group has the number of the user.
    #[arg(long, value_name = "UID[:GID]")]
    host_user: Option<User>,

    /// Name the guest: other commands find it by its name, and print its log, until coracle rm
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,

    /// Run the guest in the background, and print its name once its init runs [default name: two plain words]
    #[arg(short, long, conflicts_with_all = ["dry_run", "timings"])]
    detach: bool,

    /// Leave nothing of a guest that has a name when it has ended
    #[arg(long)]
    rm: bool,

    /// Turn the escape key off: Ctrl-A goes to the guest like any other key
    #[arg(long)]
    no_escape: bool,

    /// Print the machine that these options describe (memory, devices, kernel command line), and do not boot it
    #[arg(long)]
    dry_run: bool,

    /// Report where the time of the boot goes: its phases, exits and the console
    ///
    /// The report is a table on stderr when the run has ended, or FILE: if its name ends in .json, it has all figures, if in
    /// .svg, it is a picture. With --on-reboot restart, the report is about the first boot.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, conflicts_with = "dry_run")]
    timings: Option<Option<Destination>>,

    /// Read these options from a JSON file
    ///
    /// Its keys are the names of the flags, for example {"memory": "1G", "disk": "root.img,ro"}. Names of files in it that
    /// are relative start at its own directory. A flag wins over the file; the disks of both are attached, the file's first.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    command: Command,
}

impl Args {
    /// The configuration file's choices, if there is one, and the flags' on top.
    fn config(&self) -> Result<Config, Error> {
        let mut config = match &self.config {
            Some(path) => Config::from_json(path)?,
            None => Config::default(),
        };
        config.kernel = self.kernel.clone().or(config.kernel);
        config.initrd = self.initrd.clone().or(config.initrd);
        config.cmdline = self.cmdline.clone().unwrap_or(config.cmdline);
        config.cpus = self.cpus.unwrap_or(config.cpus);
        config.cpu = self.cpu.unwrap_or(config.cpu);
        config.memory = self.memory.unwrap_or(config.memory);
        config.disks.extend(self.disks.iter().cloned());
        config.vsock = self.vsock.clone().or(config.vsock);
        config.on_reboot = self.on_reboot.unwrap_or(config.on_reboot);
        config.confine = self.confine.unwrap_or(config.confine);
        config.host_user = self.host_user.or(config.host_user);
        config.no_escape |= self.no_escape;
        config.validate()?;
        Ok(config)
    }
}

pub fn execute(args: &Args, started: Duration) -> Result<u8, Error> {
    run(args, started).map_err(|error| match LimitReached::behind(&error) {
        Some(limit) => limit.into(),
        None => error,
    })
}

fn run(args: &Args, started: Duration) -> Result<u8, Error> {
    let inherited = args.detach.then(Inherited::note);
    let mut config = args.config()?;
    let arguments: Vec<_> = env::args_os().collect();
    let what = args.command.what(&arguments);
    let rooted = args.command.of_image.obtain(what.image, &mut config)?;
    let of = (rooted.as_ref(), &what.command[..]);
    let program = args.command.program(&mut config, of, args.detach)?;
    let has_name = args.name.is_some() || args.detach;
    // In a guest that can be found others may run programs.
    let serves = has_name && config.kernel.is_none() && config.initrd.is_none();
    if has_name {
        config.vsock.get_or_insert_default();
    }
    ignore_file_size_limit();
    let timeline = match args.timings {
        Some(_) => Timeline::on(started),
        None => Timeline::off(),
    };
    timeline.mark(Phase::ArgumentsUnderstood);
    if args.dry_run {
        let mut hints = match program {
            Some(_) => program::HINT.into(),
            None => console_hints(),
        };
        hints.extend(rooted.iter().map(|rooted| rooted.hints.as_str()));
        let hints = with_service(hints, args.name.as_ref().filter(|_| serves));
        let machine = DryRun::new(&config, &hints)?;
        let confinement = confinement::outlook(&config)?;
        print("print the machine", format!("{machine}{confinement}"))?;
        return Ok(0);
    }
    // One that goes into the background leaves the terminal anyway.
    if !args.detach {
        leave_to_parent(Work::Guest, |child| {
            if config.confine != Confine::Off {
                confine::enter_keeper(child, config.host_user.is_some());
            }
        });
    }
    // After that, so that the parent has no file open.
    let timings = match &args.timings {
        Some(destination) => Some(ReportWriter::new(destination.as_ref())?),
        None => None,
    };
    let mut own = match has_name {
        true => Some(Own::make(
            args.name.clone(),
            &Made::of(&config, program.as_ref(), args.rm),
        )?),
        false => None,
    };
    if args.detach
        && let Some(made) = own.take()
    {
        match detached::detach(made)? {
            Side::Starter(code) => return Ok(code),
            Side::Guest(made) => own = Some(made),
        }
    }
    if let Some(program) = program {
        return run_program(
            (&config, rooted.as_ref()),
            program,
            args.command.console,
            (own, inherited),
            (timings, timeline),
        );
    }
    let mut boots = Boots::new((&config, rooted.as_ref()), (own, inherited), serves);
    let ended = boot_until_the_end(&mut boots, timeline, timings);
    let (code, explanation) = match &ended {
        Ok(diagnosis) => (
            diagnosis.exit_code,
            diagnosis
                .explanation
                .as_ref()
                .map(|explanation| explanation.to_string()),
        ),
        Err(error) => (error.exit_code(), Some(error.to_string())),
    };
    boots.write_down(code, explanation);
    ended.map(|diagnosis| diagnosis.exit_code)
}

/// Runs the one program that the guest is for.
fn run_program(
    of: (&Config, Option<&Rooted>),
    program: Program,
    shows_console: bool,
    (mut own, inherited): (Option<Own>, Option<Inherited>),
    (timings, timeline): (Option<ReportWriter>, Timeline),
) -> Result<u8, Error> {
    let output = Console::default();
    let named = own.as_mut().map(|own| program::Named {
        own,
        inherited,
        output: &output,
    });
    let ended = program::run(of, program, shows_console, named, &timeline);
    let written = write_report(timings, timeline);
    if let Some(own) = own {
        let (code, explanation) = match &ended {
            Ok(ending) => (ending.code, ending.explanation.clone()),
            Err(error) => (error.exit_code(), Some(error.to_string())),
        };
        own.end(&output, code, explanation);
    }
    let code = ended?.code;
    written?;
    Ok(code)
}

fn write_report(output: Option<ReportWriter>, timeline: Timeline) -> Result<(), Error> {
    match (output, timeline.record()) {
        (Some(output), Some(record)) => Ok(output.write(&Report::new(&record))?),
        _ => Ok(()),
    }
}

fn boot_until_the_end(
    boots: &mut Boots,
    mut timeline: Timeline,
    mut timings: Option<ReportWriter>,
) -> Result<Diagnosis, Error> {
    loop {
        let ended = boots.next(&timeline);
        let written = write_report(timings.take(), mem::take(&mut timeline));
        let Some(diagnosis) = ended? else {
            written?;
            log::info!("the guest rebooted");
            continue;
        };
        if let Some(explanation) = &diagnosis.explanation {
            tell(explanation);
        }
        written?;
        return Ok(diagnosis);
    }
}
