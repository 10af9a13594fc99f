//! `coracle license`: the licenses of Coracle and of what it carries inside, and where the sources of that are.

use std::fmt::Write as _;

use super::{Error, print};

/// Print the licenses of Coracle and of the guest that it carries inside
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle license            whose work is inside, under which license, and where its sources are
  coracle license gpl-2.0    a license's text
  coracle license crates     the Rust crates inside, and the texts of their licenses")]
pub struct Args {
    /// The license to print in full; crates: those of the Rust crates inside, with a list of them
    #[arg(value_enum)]
    license: Option<License>,
}

/// A license of something that is in the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum License {
    #[value(name = "apache-2.0")]
    Apache2,
    #[value(name = "gpl-2.0")]
    Gpl2,
    #[value(name = "lgpl-2.1")]
    Lgpl2,
    /// Those of the crates, which tools/crate-licenses wrote down.
    Crates,
}

impl License {
    fn text(self) -> &'static str {
        match self {
            Self::Apache2 => include_str!("../../LICENSE"),
            Self::Gpl2 => include_str!("licenses/GPL-2.0"),
            Self::Lgpl2 => include_str!("licenses/LGPL-2.1"),
            Self::Crates => include_str!("licenses/crates"),
        }
    }
}

/// A package whose work is inside, as guest-images/build found it installed.
#[derive(Debug, PartialEq, Eq)]
struct Package<'a> {
    name: &'a str,
    version: &'a str,
    source: &'a str,
    source_version: &'a str,
}

/// The guest inside: what its build wrote down.
struct Guest<'a> {
    /// A line for each package.
    kernel: &'a str,
    initrd: &'a str,
    /// The names of the patches to the kernel.
    patches: &'a str,
}

#[cfg(built_in_guest)]
const GUEST: Option<Guest> = Some(Guest {
    kernel: include_str!(env!("CORACLE_KERNEL_PACKAGES")),
    initrd: include_str!(env!("CORACLE_INITRD_PACKAGES")),
    patches: env!("CORACLE_KERNEL_PATCHES"),
});
#[cfg(not(built_in_guest))]
const GUEST: Option<Guest> = None;

pub fn execute(args: &Args) -> Result<u8, Error> {
    let text = match args.license {
        Some(license) => license.text().to_owned(),
        None => overview(GUEST.as_ref()),
    };
    print("print the license", text)?;
    Ok(0)
}

fn packages(list: &str) -> impl Iterator<Item = Package<'_>> {
    list.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some(Package {
            name: words.next()?,
            version: words.next()?,
            source: words.next()?,
            source_version: words.next()?,
        })
    })
}

/// What a package is, and its license. The packages are those that guest-images/build names.
fn known(package: &str) -> (&'static str, &'static str) {
    match package {
        "busybox-static" => ("busybox, in the built-in guest", "GPL-2.0"),
        "libc6-dev" => (
            "the GNU C library, linked into Coracle and the built-in guest's programs",
            "LGPL-2.1",
        ),
        _ => ("Linux, the built-in guest's kernel", "GPL-2.0"),
    }
}

fn overview(guest: Option<&Guest>) -> String {
    let mut text = format!(
        "Coracle {}, its init in the built-in guest, and the scripts that build that guest: Apache-2.0.\n\n\
         In the program is also the work of others. Crates of Rust: coracle license crates. Rust's standard library: MIT or \
         Apache-2.0. The typeface Roboto, in the plots of coracle race: Apache-2.0.\n",
        env!("CARGO_PKG_VERSION")
    );
    let Some(guest) = guest else {
        text += "\nThis program was built without a guest inside.\n";
        return text;
    };
    text += "\nBuilt from packages of Debian:\n";
    for package in packages(guest.kernel).chain(packages(guest.initrd)) {
        let (what, license) = known(package.name);
        let Package {
            name,
            version,
            source,
            source_version,
        } = package;
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n{what}: {license}\n  built from  {name} {version}\n  sources     \
             Debian's source package {source}, version {source_version}: apt-get source {source}={source_version}\n"
        );
    }
    text += "\nThe kernel is changed by these patches, in the folder guest-images/kernel/patches of Coracle's sources:\n";
    for patch in guest.patches.split(' ') {
        let _ = writeln!(text, "  {patch}");
    }
    text += "\
Beside them are its configuration, coracle.config, and the script that builds it, build.

Where a license asks for the sources to come with the program: whoever gave you this program owes you these, too.
The texts: coracle license gpl-2.0, coracle license lgpl-2.1, coracle license apache-2.0, coracle license crates.
";
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: Guest = Guest {
        kernel: "linux-source-6.12 6.12.999-1 linux-6.12 6.12.999-1\n",
        initrd: "busybox-static 1:1.2-3+b4 busybox 1:1.2-3\nlibc6-dev 2.99-9 glibc 2.99-9\n",
        patches: "0001-first.patch 0002-second.patch",
    };

    #[test]
    fn the_overview_names_licenses_versions_sources_and_patches() {
        let text = overview(Some(&LISTED));
        for part in [
            "kernel: GPL-2.0\n",
            "busybox, in the built-in guest: GPL-2.0\n",
            "programs: LGPL-2.1\n",
            "built from  linux-source-6.12 6.12.999-1\n",
            "built from  busybox-static 1:1.2-3+b4\n",
            "apt-get source busybox=1:1.2-3\n",
            "apt-get source linux-6.12=6.12.999-1\n",
            "  0001-first.patch\n  0002-second.patch\n",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
    }

    #[test]
    fn a_program_without_a_guest_says_so() {
        assert!(overview(None).ends_with("without a guest inside.\n"));
    }

    #[cfg(built_in_guest)]
    #[test]
    fn the_guest_inside_is_listed_with_all_that_it_was_built_of() {
        let guest = GUEST.unwrap();
        let listed = |list| packages(list).map(|package| package.name).collect::<Vec<_>>();
        assert_eq!(listed(guest.kernel), ["linux-source-6.12"]);
        assert_eq!(listed(guest.initrd), ["busybox-static", "libc6-dev"]);
        assert!(guest.patches.contains("0001-"), "{}", guest.patches);
    }

    #[test]
    fn each_text_is_of_its_license() {
        for (license, title) in [
            (License::Apache2, "Apache License"),
            (
                License::Gpl2,
                "GNU GENERAL PUBLIC LICENSE\n                       Version 2,",
            ),
            (
                License::Lgpl2,
                "GNU LESSER GENERAL PUBLIC LICENSE\n                       Version 2.1",
            ),
            (License::Crates, "\nvmm-sys-util "),
        ] {
            let text = license.text();
            assert!(text.contains(title), "{:?}", &text[..200]);
        }
    }
}
