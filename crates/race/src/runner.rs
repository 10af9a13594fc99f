//! The runners of a race and their command lines. For a VMM it is the command line that boots fastest.

use std::env;
use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio, id};

use super::wait::{PATIENCE_AT_END, run_within};
use super::watcher::Watcher;
use super::workload::Workload;

/// A program that can run the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Runner {
    Coracle,
    Crun,
    Runc,
    Podman,
    Docker,
    Qemu,
    Firecracker,
    CloudHypervisor,
    Crosvm,
}

impl Runner {
    pub const ALL: [Self; 9] = [
        Self::Coracle,
        Self::Crun,
        Self::Runc,
        Self::Podman,
        Self::Docker,
        Self::Qemu,
        Self::Firecracker,
        Self::CloudHypervisor,
        Self::Crosvm,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Coracle => "coracle",
            Self::Crun => "crun",
            Self::Runc => "runc",
            Self::Podman => "podman",
            Self::Docker => "docker",
            Self::Qemu => "qemu microvm",
            Self::Firecracker => "firecracker",
            Self::CloudHypervisor => "cloud-hypervisor",
            Self::Crosvm => "crosvm",
        }
    }

    /// What its program is called, for all but Coracle, which is this program.
    fn program(self) -> &'static str {
        match self {
            Self::Qemu => "qemu-system-x86_64",
            other => other.name(),
        }
    }

    /// Whether it runs the workload in a virtual machine, or else in a container.
    pub fn is_vmm(self) -> bool {
        !matches!(self, Self::Crun | Self::Runc | Self::Podman | Self::Docker)
    }
}

impl fmt::Display for Runner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// A runner that is on this host and has what it needs. Dropping it removes what was made for it.
pub struct Contestant {
    pub runner: Runner,
    program: PathBuf,
    /// The image of the workload that was made for it.
    image: Option<String>,
}

impl Contestant {
    /// The error is a sentence for people: why this runner does not take part.
    pub fn prepare(runner: Runner, workload: &Workload, watcher: &Watcher) -> Result<Self, String> {
        let program = match runner {
            // The program that is running.
            Runner::Coracle => {
                env::current_exe().map_err(|error| format!("it cannot find itself: {error}"))?
            }
            _ => on_path(runner.program()).ok_or_else(|| match runner {
                Runner::Qemu => format!("{} was not found on PATH", runner.program()),
                _ => "not found on PATH".to_owned(),
            })?,
        };
        let mut contestant = Self {
            runner,
            program,
            image: None,
        };
        if runner == Runner::Docker {
            let image = contestant.import(&workload.rootfs())?;
            watcher.undo_later(&image, &contestant.words(&["rmi", "--force", &image]));
            contestant.image = Some(image);
        }
        Ok(contestant)
    }

    /// Makes an image of a directory: docker runs nothing else.
    fn import(&self, rootfs: &Path) -> Result<String, String> {
        let image = format!("coracle-race:{}", id());
        let cannot = |why: &dyn fmt::Display| format!("cannot make an image: {why}");
        let mut tar = Command::new("tar")
            .arg("-C")
            .arg(rootfs)
            .args(["-c", "."])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| cannot(&format!("tar: {error}")))?;
        let archive = tar.stdout.take().map_or(Stdio::null(), Stdio::from);
        let imported = Command::new(&self.program)
            .args(["import", "-", &image])
            .stdin(archive)
            .output();
        // It also ends when its output is closed.
        let _ = tar.wait();
        let imported = imported.map_err(|error| cannot(&error))?;
        match imported.status.success() {
            true => Ok(image),
            false => Err(cannot(&String::from_utf8_lossy(&imported.stderr).trim())),
        }
    }

    /// The command line of one start, whose container gets this name.
    pub fn command(&self, workload: &Workload, id: &str) -> Vec<String> {
        let path = |path: PathBuf| path.display().to_string();
        let (kernel, initrd) = (path(workload.kernel()), path(workload.initrd()));
        let line = workload.kernel_command_line();
        let (memory, cpus) = (workload.memory_mib.to_string(), workload.cpus.to_string());
        let arguments: Vec<String> = match self.runner {
            Runner::Coracle => words(&["run", "--memory", &(memory + "M"), "--cpus", &cpus, "--cmdline"])
                .chain([format!("-- {}", workload.init_arguments())])
                .collect(),
            Runner::Crun | Runner::Runc => {
                words(&["run", "--bundle", &path(workload.bundle()), id]).collect()
            }
            Runner::Podman => {
                let options = [
                    "run",
                    "--rm",
                    "--name",
                    id,
                    "--network",
                    "none",
                    "--log-driver",
                    "none",
                ];
                words(&options)
                    .chain(words(&["--rootfs", &path(workload.rootfs()), "/init"]))
                    .chain(workload.command.iter().cloned())
                    .collect()
            }
            Runner::Docker => {
                let image = self.image.as_deref().unwrap_or_default();
                words(&["run", "--rm", "--name", id, "--network", "none", image, "/init"])
                    .chain(workload.command.iter().cloned())
                    .collect()
            }
            Runner::Qemu => words(&[
                "-M",
                "microvm,x-option-roms=off,pit=off,pic=off,rtc=off,isa-serial=on,acpi=off",
                "-accel",
                "kvm",
                "-cpu",
                "host",
                "-smp",
                &cpus,
                "-m",
                &memory,
                "-nodefaults",
                "-no-user-config",
                "-no-reboot",
                "-display",
                "none",
                "-serial",
                "stdio",
                "-kernel",
                &kernel,
                "-initrd",
                &initrd,
                "-append",
                &line,
            ])
            .collect(),
            Runner::Firecracker => {
                words(&["--no-api", "--config-file", &path(workload.firecracker())]).collect()
            }
            Runner::CloudHypervisor => words(&[
                "--kernel",
                &kernel,
                "--initramfs",
                &initrd,
                "--cmdline",
                &line,
                "--cpus",
                &format!("boot={cpus}"),
                "--memory",
                &format!("size={memory}M"),
                "--serial",
                "tty",
                "--console",
                "off",
            ])
            .collect(),
            Runner::Crosvm => words(&[
                "run",
                "--disable-sandbox",
                "--cpus",
                &cpus,
                "--mem",
                &memory,
                "--serial",
                "type=stdout,hardware=serial,num=1,console=true",
                "--initrd",
                &initrd,
                "--params",
                &line,
                &kernel,
            ])
            .collect(),
        };
        [path(self.program.clone())]
            .into_iter()
            .chain(arguments)
            .collect()
    }

    /// The command that ends a container and removes it. None for a VMM, which is ended by ending its process.
    pub fn end_command(&self, id: &str) -> Option<Command> {
        self.end_words(id).map(|words| quietly(&words))
    }

    /// The words of that command.
    pub fn end_words(&self, id: &str) -> Option<Vec<String>> {
        let arguments: &[&str] = match self.runner {
            Runner::Crun | Runner::Runc => &["delete", "--force", id],
            Runner::Podman => &["rm", "--force", "--time", "0", id],
            Runner::Docker => &["rm", "--force", id],
            _ => return None,
        };
        Some(self.words(arguments))
    }

    /// A command line of its program.
    fn words(&self, arguments: &[&str]) -> Vec<String> {
        let program = self.program.display().to_string();
        [program].into_iter().chain(words(arguments)).collect()
    }
}

fn quietly(words: &[String]) -> Command {
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A group of its own: Ctrl-C must not end what clears up after it.
        .process_group(0);
    command
}

impl Drop for Contestant {
    fn drop(&mut self) {
        if let Some(image) = self.image.take() {
            // If this fails, docker itself has failed, and nothing more can be done.
            run_within(quietly(&self.words(&["rmi", "--force", &image])), PATIENCE_AT_END);
        }
    }
}

fn words<'a>(words: &'a [&'a str]) -> impl Iterator<Item = String> + use<'a> {
    words.iter().map(|word| word.to_string())
}

/// The first program of this name that PATH leads to.
fn on_path(name: &str) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    env::split_paths(&env::var_os("PATH")?)
        .map(|directory| directory.join(name))
        .find(is_program)
}
