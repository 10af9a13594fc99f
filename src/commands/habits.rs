//! Answers to arguments that people type out of habit, because other programs take them, and that Coracle does not have.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Commands, flags that other programs' commands of this name have, and what a person can do today to get the same effect.
const FLAGS: &[(&str, &[&str], &str)] = &[
    ("run", &["--volume", "--mount"], NO_SHARED_FOLDERS),
    (
        "run",
        &[
            "-p",
            "--publish",
            "-P",
            "--publish-all",
            "--network",
            "--net",
            "--link",
            "--expose",
            "--dns",
            "--add-host",
            "--ip",
        ],
        "does not exist, because guests have no network yet",
    ),
    (
        "run",
        &["--privileged", "--cap-add", "--cap-drop", "--security-opt"],
        "does not exist, because a guest has a kernel of its own: its programs may do all that the guest can",
    ),
    (
        "run",
        &["--restart"],
        "does not exist: a service of this host (systemd) runs a guest again when it has ended",
    ),
    (
        "run",
        &["--ulimit", "--sysctl", "--shm-size"],
        "does not exist, because a guest has a kernel of its own: a command in it changes its limits (ulimit, sysctl, mount)",
    ),
    (
        "run",
        &["--gpus", "--device"],
        "does not exist, because guests have none of the host's devices; --disk FILE gives a block device",
    ),
    (
        "run",
        &["-l", "--label", "--label-file"],
        "does not exist: guests have names (--name NAME), and no labels",
    ),
    (
        "run",
        &["--stop-signal"],
        "does not exist: the image says its signal, and coracle kill -s SIGNAL NAME sends any",
    ),
    (
        "pull",
        &["--tls-verify"],
        "is --insecure: the registry may use plain HTTP, or a certificate that nobody has signed",
    ),
    (
        "pull",
        &["-a", "--all-tags"],
        "does not exist: coracle pull NAME:TAG gets one image",
    ),
    (
        "login",
        &["--tls-verify"],
        "is --insecure: the registry may use plain HTTP, or a certificate that nobody has signed",
    ),
    (
        "exec",
        &["-d", "--detach"],
        "is done by a shell in the guest: coracle exec NAME sh -c 'COMMAND >/tmp/log 2>&1 &' returns, and COMMAND goes on",
    ),
    (
        "cp",
        &["-r", "-R", "--recursive"],
        "is not needed: a directory is copied with all that is in it",
    ),
];

/// Words that are no commands, and what a person can do to get what other programs do by them.
const COMMANDS: &[(&[&str], &str)] = &[
    (
        &["create", "start", "restart"],
        "coracle run makes a guest and starts it, anew each time; what it is to keep is on a disk (--disk FILE)",
    ),
    (
        &["image"],
        "the commands for images stand by themselves: coracle images, coracle pull, coracle rmi, coracle inspect --type image",
    ),
    (
        &["build", "buildx", "commit", "push"],
        "images are made and published by other programs, such as buildah and skopeo; coracle load and coracle pull take them, and \
         coracle import makes one of a root file system",
    ),
    (
        &["export", "diff"],
        "coracle cp copies files out of a guest, coracle save writes an image to an archive",
    ),
    (
        &["search"],
        "registries are searched by a browser, or by skopeo list-tags; coracle pull NAME gets an image by its name",
    ),
    (
        &["system"],
        "the commands stand by themselves: coracle prune gives space back, coracle doctor shows what this host can do",
    ),
    (
        &["top"],
        "coracle exec NAME ps shows the programs of a guest, coracle stats NAME what it uses",
    ),
    (&["container", "list", "ls"], "coracle ps lists the guests"),
    (
        &["shell", "ssh"],
        "coracle exec -it NAME sh gives a shell in a guest",
    ),
    (
        &["info"],
        "coracle doctor shows what this host can do, coracle inspect NAME what is known of a guest",
    ),
    (
        &["network", "port"],
        "guests have no network yet; coracle exec, coracle cp and sockets (coracle run --vsock PATH) reach them",
    ),
    (
        &["volume"],
        "disks keep a guest's files (coracle run --disk FILE)",
    ),
];

pub const NO_SHARED_FOLDERS: &str = "cannot be done, because guests cannot share folders of the host yet: put the files onto a \
                                 disk image (--disk FILE) or into an initrd (--initrd FILE)";

/// One line about the argument that clap did not expect; nothing where clap's own message is better. `arguments` are those of the
/// process, with the name of the program.
pub fn answer(error: &clap::Error, arguments: &[String]) -> Option<String> {
    let command = arguments.iter().skip(1).find(|word| !word.starts_with('-'))?;
    if error.kind() == ErrorKind::InvalidSubcommand {
        let (_, answer) = COMMANDS
            .iter()
            .find(|(words, _)| words.contains(&command.as_str()))?;
        return Some(format!("there is no command '{command}': {answer}"));
    }
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let flag = argument.split('=').next()?;
    let is_it = |entry: &&(&str, &[&str], _)| entry.0 == command && entry.1.contains(&flag);
    let (_, _, answer) = FLAGS.iter().find(is_it)?;
    Some(format!("{flag} {answer}"))
}

#[cfg(test)]
#[path = "habits_test.rs"]
mod tests;
