//! What an image was built for.

use std::fmt;
use std::str::FromStr;

use oci_spec::image::Descriptor;

use crate::error::{Error, Result, invalid, shortened};

/// An operating system and a kind of processor, as `linux/amd64` or `linux/arm/v7`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    pub variant: Option<String>,
}

/// What Coracle runs.
impl Default for Platform {
    fn default() -> Self {
        Self {
            os: "linux".into(),
            architecture: "amd64".into(),
            variant: None,
        }
    }
}

impl Platform {
    /// The platform that an index names for one of its images.
    pub(crate) fn of(descriptor: &Descriptor) -> Option<Self> {
        let platform = descriptor.platform().as_ref()?;
        Some(Self {
            os: platform.os().to_string(),
            architecture: platform.architecture().to_string(),
            variant: platform.variant().clone(),
        })
    }

    /// True if an image for `other` is one for this platform. A variant counts only where one is asked for.
    pub fn takes(&self, other: &Self) -> bool {
        let variant = self.variant.is_none() || self.variant == other.variant;
        self.os == other.os && self.architecture == other.architecture && variant
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<_> = text.split('/').collect();
        let is_word = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'.')
        };
        match (parts.iter().all(is_word), &parts[..]) {
            (true, [os, architecture, variant @ ..]) if variant.len() <= 1 => Ok(Self {
                os: (*os).into(),
                architecture: (*architecture).into(),
                variant: variant.first().map(|variant| (*variant).into()),
            }),
            _ => Err(invalid(format!(
                "'{}' is no platform; write one as linux/amd64 or linux/arm64/v8",
                shortened(text)
            ))),
        }
    }
}
