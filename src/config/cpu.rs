//! `--cpu`: the features of a guest's processors that are added to those of every guest.

use std::fmt;
use std::str::FromStr;

/// A feature that a guest gets only when the person asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuFeature {
    Vmx,
    Svm,
    Pmu,
}

impl CpuFeature {
    /// Every feature, in the order in which errors list them.
    pub const ALL: [Self; 3] = [Self::Vmx, Self::Svm, Self::Pmu];

    pub fn name(self) -> &'static str {
        match self {
            Self::Vmx => "vmx",
            Self::Svm => "svm",
            Self::Pmu => "pmu",
        }
    }
}

/// The processors of a guest, written `host[,+FEATURE|,-FEATURE]...`.
///
/// `host` stands for the features of the host's processor that programs and kernels commonly use. The default adds nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Whether each feature of [`CpuFeature::ALL`] is added.
    added: [bool; CpuFeature::ALL.len()],
}

impl Cpu {
    pub fn has(self, feature: CpuFeature) -> bool {
        self.added[feature as usize]
    }

    /// The features that the person asked for.
    pub fn added(self) -> impl Iterator<Item = CpuFeature> {
        CpuFeature::ALL
            .into_iter()
            .filter(move |&feature| self.has(feature))
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "'{0}' is no kind of processor: write host, or host with features, for example host,+vmx (the number of vCPUs is \
         the option 'cpus')"
    )]
    Model(String),
    #[error("'{0}' adds or removes no feature: write +NAME or -NAME, NAME one of {names}", names = names())]
    Sign(String),
    #[error("'{0}' is no feature that --cpu knows: it knows {names}", names = names())]
    Feature(String),
    #[error("the feature '{0}' is given twice: write either +{0} or -{0}, and once")]
    Twice(&'static str),
}

fn names() -> String {
    CpuFeature::ALL.map(CpuFeature::name).join(", ")
}

impl FromStr for Cpu {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (model, features) = text.split_once(',').map_or((text, None), |(m, f)| (m, Some(f)));
        if model != "host" {
            return Err(Error::Model(model.to_owned()));
        }
        let mut cpu = Self::default();
        let mut given = Vec::new();
        for word in features.into_iter().flat_map(|features| features.split(',')) {
            let (add, name) = match (word.strip_prefix('+'), word.strip_prefix('-')) {
                (Some(name), _) => (true, name),
                (_, Some(name)) => (false, name),
                _ => return Err(Error::Sign(word.to_owned())),
            };
            let feature = CpuFeature::ALL.into_iter().find(|feature| feature.name() == name);
            let feature = feature.ok_or_else(|| Error::Feature(name.to_owned()))?;
            if given.contains(&feature) {
                return Err(Error::Twice(feature.name()));
            }
            given.push(feature);
            cpu.added[feature as usize] = add;
        }
        Ok(cpu)
    }
}

/// Writes the value as the command line has it.
impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("host")?;
        self.added()
            .try_for_each(|feature| write!(f, ",+{}", feature.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_what_was_asked_for() {
        for (text, printed) in [
            ("host", "host"),
            ("host,+vmx", "host,+vmx"),
            ("host,-svm,+pmu", "host,+pmu"),
        ] {
            assert_eq!(text.parse::<Cpu>().unwrap().to_string(), printed, "{text}");
        }
        assert_eq!("host".parse::<Cpu>().unwrap(), Cpu::default());
    }

    #[test]
    fn what_is_unknown_is_named_beside_what_is_known() {
        for (text, told) in [
            ("", "'' is no kind of processor"),
            ("max", "'max' is no kind of processor"),
            ("host,vmx", "'vmx' adds or removes no feature"),
            ("host,", "'' adds or removes no feature"),
            ("host,+svm,+pmu,-svm", "the feature 'svm' is given twice"),
            ("host,+vmx,+vmx", "the feature 'vmx' is given twice"),
            (
                "host,+sgx",
                "'sgx' is no feature that --cpu knows: it knows vmx, svm, pmu",
            ),
        ] {
            let error = text.parse::<Cpu>().unwrap_err().to_string();
            assert!(error.starts_with(told), "{error}");
        }
    }
}
