//! `vendor/class=device`: the names by which requests and files mean a device. Pure.

use std::collections::HashMap;

use cri_api::v1::ContainerConfig;

use super::CdiError;

/// Annotations whose values are lists of devices; the CRI's own field came later.
const ANNOTATION: &str = "cdi.k8s.io/";
/// Longer than any name that anybody gives, short enough to be shown.
const LONGEST: usize = 512;

/// A device's full name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DeviceName {
    /// `vendor/class`, as a file's `kind` has it.
    pub kind: String,
    /// The device's own name.
    pub device: String,
}

impl std::fmt::Display for DeviceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.kind, self.device)
    }
}

impl DeviceName {
    /// Takes a name apart.
    ///
    /// # Errors
    /// `CdiError::Name`: which rule of the specification it breaks.
    pub fn parse(name: &str) -> Result<Self, CdiError> {
        let refuse = |reason| {
            let name = name.chars().take(LONGEST).collect();
            Err(CdiError::Name { name, reason })
        };
        if name.len() > LONGEST {
            return refuse("is too long");
        }
        let Some((kind, device)) = name.split_once('=') else { return refuse("is not vendor/class=device") };
        if let Err(reason) = check_kind(kind).and_then(|()| check_device(device)) {
            return refuse(reason);
        }
        Ok(Self { kind: kind.to_owned(), device: device.to_owned() })
    }
}

/// `vendor/class`.
pub(super) fn check_kind(kind: &str) -> Result<(), &'static str> {
    let Some((vendor, class)) = kind.split_once('/') else { return Err("has no vendor/class") };
    let good = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.ends_with(|c: char| c.is_ascii_alphanumeric())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
    };
    match good(vendor) && good(class) {
        true => Ok(()),
        false => Err(
            "has a vendor or class that is not a letter, then letters, digits, '_', '-' and '.', then a letter or digit",
        ),
    }
}

/// The part after the equals sign.
pub(super) fn check_device(device: &str) -> Result<(), &'static str> {
    let good = device.starts_with(|c: char| c.is_ascii_alphanumeric())
        && device.ends_with(|c: char| c.is_ascii_alphanumeric())
        && device.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:".contains(&b));
    match good {
        true => Ok(()),
        false => Err("has a device name that is not letters, digits, '_', '-', '.' and ':' between letters or digits"),
    }
}

/// The devices of a request, each once: those of the field in its order, then those of the annotations, by key.
///
/// # Errors
/// `CdiError::Name`: one of them is no device's name.
pub fn requested(config: &ContainerConfig) -> Result<Vec<DeviceName>, CdiError> {
    let mut names: Vec<DeviceName> = Vec::new();
    let mut add = |name: &str| {
        let name = DeviceName::parse(name)?;
        if !names.contains(&name) {
            names.push(name);
        }
        Ok(())
    };
    config.cdi_devices.iter().try_for_each(|device| add(&device.name))?;
    annotated(&config.annotations).into_iter().flat_map(|list| list.split(',')).try_for_each(add)?;
    Ok(names)
}

fn annotated(annotations: &HashMap<String, String>) -> Vec<&str> {
    let mut ours: Vec<_> = annotations.iter().filter(|(key, _)| key.starts_with(ANNOTATION)).collect();
    ours.sort();
    ours.into_iter().map(|(_, value)| value.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use cri_api::v1::CdiDevice;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_taken_apart_or_refused() {
        for good in ["vendor.com/class=dev", "a/b=0", "nvidia.com/gpu=GPU-1:2.3_4", "v-1/c_2=x"] {
            assert_eq!(DeviceName::parse(good).unwrap().to_string(), good);
        }
        for bad in [
            "",
            "/",
            "=",
            "a/b",
            "a=b",
            "/b=c",
            "a/=c",
            "a/b=",
            "1a/b=c",
            "a/1b=c",
            "a/b=-c",
            "a/b=c-",
            "a-/b=c",
            "a/b=c d",
            "a/b/c=d",
            "a/b=../c",
            "a/b=c=d",
            "/dev/null",
            "ä/b=c",
        ] {
            assert!(DeviceName::parse(bad).is_err(), "{bad}");
        }
        assert!(DeviceName::parse(&format!("a/b={}", "x".repeat(1 << 20))).unwrap_err().to_string().len() < 700);
    }

    #[test]
    fn the_field_and_the_annotations_are_one_list() {
        let device = |name: &str| CdiDevice { name: name.to_owned() };
        let mut config = ContainerConfig { cdi_devices: vec![device("v/c=2"), device("v/c=1")], ..Default::default() };
        let annotations =
            [("cdi.k8s.io/b", "v/c=3,v/c=2"), ("cdi.k8s.io/a", "v/c=4"), ("other/a", "nonsense"), ("cdi.k8s.iox", "x")];
        config.annotations = annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let names: Vec<String> = requested(&config).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["v/c=2", "v/c=1", "v/c=4", "v/c=3"]);
        config.annotations.insert("cdi.k8s.io/c".into(), "v/c=5,".into());
        assert!(requested(&config).is_err(), "an empty name is none");
    }

    proptest! {
        #[test]
        fn any_text_is_a_name_that_reads_back_or_an_error(text in ".{0,40}") {
            if let Ok(name) = DeviceName::parse(&text) {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
