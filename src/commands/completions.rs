//! `coracle completions`: prints a shell's completion script. It is generated from the definitions of the arguments, and has the
//! shell ask `coracle ps` and `coracle images` for names.

use clap::{Arg, ArgAction, Command, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Error, print};

/// Print the completion script of a shell
///
/// Names of guests and images are completed, too, in bash, zsh and fish.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle completions bash > ~/.local/share/bash-completion/completions/coracle
  coracle completions zsh > ~/.zfunc/_coracle
  coracle completions fish > ~/.config/fish/completions/coracle.fish")]
pub struct Args {
    /// The shell that the script is for
    shell: Shell,
}

/// The commands whose first argument is the name of a guest or of an image, and what lists the names that make sense there.
const NAMES: [(&str, &str); 17] = [
    ("attach", LIVING),
    ("exec", "coracle ps -q -f status=running"),
    ("history", IMAGES),
    ("inspect", ALL),
    ("kill", LIVING),
    ("logs", ALL),
    ("pause", "coracle ps -q -f status=running"),
    ("rename", ALL),
    ("rm", "coracle ps -q -f status=exited"),
    ("rmi", IMAGES),
    ("run", IMAGES),
    ("save", IMAGES),
    ("stats", LIVING),
    ("stop", LIVING),
    ("tag", IMAGES),
    ("unpause", "coracle ps -q -f status=paused"),
    ("wait", LIVING),
];
const LIVING: &str = "coracle ps -q";
const ALL: &str = "coracle ps -q -a";
const IMAGES: &str = "coracle images --names";

pub fn execute(args: &Args) -> Result<u8, Error> {
    print("print completions", script(args.shell))?;
    Ok(0)
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "coracle", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    match shell {
        Shell::Bash => script + &bash(),
        Shell::Zsh => zsh(&script),
        Shell::Fish => script + &fish(),
        _ => script,
    }
}

/// A function around the generated one.
fn bash() -> String {
    let mut cases = String::new();
    for (name, list) in NAMES {
        let command = subcommand(name);
        let with_values = command.get_arguments().filter(|arg| is_option_with_value(arg));
        let flags: Vec<_> = with_values.flat_map(flags).collect();
        if !flags.is_empty() {
            cases += &format!(
                "        {name}\\ {}) return ;;\n",
                flags.join(&format!(" | {name}\\ "))
            );
        }
        let places = match takes_several(&command) {
            true => format!("{name}\\ *"),
            false => format!("{name}\\ {name} | {name}\\ -*"),
        };
        cases += &format!("        {places}) names=$({list} 2>/dev/null) ;;\n");
    }
    format!(
        r#"
_coracle_with_names() {{
    _coracle "$@"
    local current="${{COMP_WORDS[COMP_CWORD]}}" names
    if [[ $COMP_CWORD -lt 2 || $current == -* ]]; then return; fi
    case "${{COMP_WORDS[1]}} ${{COMP_WORDS[COMP_CWORD-1]}}" in
{cases}        *) return ;;
    esac
    compopt +o bashdefault +o default 2>/dev/null
    COMPREPLY=($(compgen -W "$names" -- "$current"))
}}
complete -F _coracle_with_names -o bashdefault -o default coracle
"#
    )
}

/// The generated script, with another action for the first argument of these commands.
fn zsh(script: &str) -> String {
    const FUNCTION: &str = "
_coracle_names() {
    local names=(${(f)\"$(\"$@\" 2>/dev/null)\"})
    compadd -a names
}
";
    const ACTION: &str = ":_default' \\";
    let mut list = None;
    let mut changed = String::with_capacity(script.len());
    for (index, line) in script.lines().enumerate() {
        // That of the first command stands farther in.
        let section = line
            .trim_start()
            .strip_prefix('(')
            .and_then(|line| line.strip_suffix(')'));
        if let Some(section) = section {
            list = NAMES
                .iter()
                .find(|(name, _)| *name == section)
                .map(|(_, list)| list);
        }
        let is_positional = line.starts_with("':") || line.starts_with("'*:");
        match (line.strip_suffix(ACTION), list) {
            (Some(begin), Some(names)) if is_positional => {
                // Without the space other words would come before these.
                changed += &format!("{begin}: _coracle_names {names}' \\\n");
                list = None;
            }
            _ => changed += &format!("{line}\n"),
        }
        if index == 0 {
            changed += FUNCTION;
        }
    }
    changed
}

fn fish() -> String {
    let lines = NAMES.map(|(name, list)| {
        format!(
            "complete -c coracle -n \"__fish_coracle_using_subcommand {name}\" -f -a \"({list} 2>/dev/null)\"\n"
        )
    });
    lines.concat()
}

fn subcommand(name: &str) -> Command {
    let mut command = Cli::command();
    command.build();
    command.find_subcommand(name).cloned().unwrap_or_default()
}

fn is_option_with_value(arg: &Arg) -> bool {
    !arg.is_positional() && arg.get_action().takes_values()
}

/// An option as it can be written.
fn flags(arg: &Arg) -> Vec<String> {
    let short = arg.get_short().map(|short| format!("-{short}"));
    let long = arg.get_long().map(|long| format!("--{long}"));
    short.into_iter().chain(long).collect()
}

fn takes_several(command: &Command) -> bool {
    let first = command.get_positionals().next();
    first.is_some_and(|first| matches!(first.get_action(), ArgAction::Append))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command as Process;
    use std::{env, fs};

    use super::*;

    #[test]
    fn every_command_that_takes_names_completes_them() {
        let cli = Cli::command();
        let takes_name = |command: &&Command| {
            let first = command.get_positionals().next();
            first.is_some_and(|first| {
                ["name", "names", "from", "image", "images"].contains(&first.get_id().as_str())
            })
        };
        let commands: BTreeSet<_> = cli
            .get_subcommands()
            .filter(takes_name)
            .map(Command::get_name)
            .collect();
        assert_eq!(commands, BTreeSet::from(NAMES.map(|(name, _)| name)));
    }

    /// What bash offers for the last of these words, where `coracle ps` prints its own arguments.
    fn offered_by_bash(words: &[&str]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("coracle");
        fs::write(
            &program,
            "#!/bin/sh\nshift; for word; do echo \"g$word\"; done; echo no >&2\n",
        )
        .unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:{}", directory.path().display(), env::var("PATH").unwrap());
        let words = words.join("' '");
        let test = format!(
            "{}\nCOMP_WORDS=('{words}'); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
             _coracle_with_names coracle \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"\n\
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            script(Shell::Bash)
        );
        let ended = Process::new("bash")
            .args(["-c", &test])
            .env("PATH", path)
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&ended.stderr), "", "{words}");
        let offered = String::from_utf8(ended.stdout).unwrap();
        offered.lines().map(str::to_owned).collect()
    }

    #[test]
    fn bash_offers_the_names_of_guests_where_they_make_sense_and_says_nothing_else() {
        assert_eq!(offered_by_bash(&["coracle", "stop", ""]), ["g-q"]);
        assert_eq!(
            offered_by_bash(&["coracle", "rm", "-f", "web", "g-"]),
            ["g-q", "g-f"]
        );
        assert_eq!(offered_by_bash(&["coracle", "rm", "gs"]), ["gstatus=exited"]);
        assert_eq!(offered_by_bash(&["coracle", "rm", "x"]), [""]);
        assert!(offered_by_bash(&["coracle", "stop", "--t"]).contains(&"--time".to_owned()));
        assert!(!offered_by_bash(&["coracle", "stop", "--time", ""]).contains(&"g-q".to_owned()));
        assert!(!offered_by_bash(&["coracle", "attach", "web", ""]).contains(&"g-q".to_owned()));
        assert_eq!(offered_by_bash(&["coracle", "st"]), ["stats", "stop"]);
    }

    #[test]
    fn zsh_and_fish_ask_for_names_as_well() {
        let (zsh, fish) = (script(Shell::Zsh), script(Shell::Fish));
        for (name, list) in NAMES {
            let section = zsh.split(&format!("({name})\n")).nth(1).unwrap();
            let section = section.split(";;").next().unwrap();
            assert_eq!(
                section.matches(&format!(": _coracle_names {list}' \\")).count(),
                1,
                "{name}"
            );
            let line = format!("using_subcommand {name}\" -f -a \"({list} 2>/dev/null)\"");
            assert!(fish.contains(&line), "{name}");
        }
        assert_eq!(zsh.matches("_coracle_names coracle").count(), NAMES.len());
    }
}
