//! What a container runs: command, environment, working directory.

use std::collections::HashMap;
use std::path::PathBuf;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use oci_spec::image::Config;
use oci_spec::runtime::Spec;

use super::error::invalid;
use super::{SpecError, SpecInput, namespace};

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Prefix of an annotation that holds the base64 of an environment value which is not UTF-8: CRI's value is bytes, the
/// `Spec`'s is text.
pub const RAW_ENV_ANNOTATION: &str = "io.berth.environment/";

fn config<'a>(input: &SpecInput<'a>) -> Option<&'a Config> {
    input.image.config().as_ref()
}

/// Kubernetes' `command` drops the image's CMD; `args` alone only replaces it.
pub(super) fn args(input: &SpecInput<'_>) -> Result<Vec<String>, SpecError> {
    let image = config(input);
    let own = |list: Option<&Option<Vec<String>>>| list.cloned().flatten().unwrap_or_default();
    let mut args = input.container.command.clone();
    if args.is_empty() {
        args = own(image.map(Config::entrypoint));
        if input.container.args.is_empty() {
            args.extend(own(image.map(Config::cmd)));
        }
    }
    args.extend(input.container.args.iter().cloned());
    if args.first().is_none_or(String::is_empty) {
        return Err(SpecError::NoCommand);
    }
    if let Some(argument) = args.iter().find(|argument| argument.contains('\0')) {
        return Err(invalid("command", argument, "has a NUL byte"));
    }
    Ok(args)
}

pub(super) fn cwd(input: &SpecInput<'_>) -> Result<PathBuf, SpecError> {
    let requested = input.container.working_dir.as_str();
    let image = config(input).and_then(|image| image.working_dir().as_deref()).unwrap_or("");
    match (requested, image) {
        (cwd, _) if cwd.contains('\0') => Err(invalid("working_dir", cwd, "has a NUL byte")),
        (cwd, _) if cwd.starts_with('/') => Ok(cwd.into()),
        ("", "") => Ok("/".into()),
        // docker build resolves WORKDIR, but not every builder does; they all mean it from the root.
        ("", cwd) => Ok(PathBuf::from("/").join(cwd)),
        (cwd, _) => Err(invalid("working_dir", cwd, "is not an absolute path")),
    }
}

/// `KEY=value` in the order of first mention; the last value of a key wins.
#[derive(Default)]
struct Environment {
    keys: Vec<String>,
    values: HashMap<String, Vec<u8>>,
}

impl Environment {
    fn set(&mut self, key: &str, value: &[u8]) {
        if self.values.insert(key.to_owned(), value.to_owned()).is_none() {
            self.keys.push(key.to_owned());
        }
    }

    fn set_pair(&mut self, pair: &str) {
        // An image's `KEY` without `=` is an empty value, as docker takes it.
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        self.set(key, value.as_bytes());
    }
}

/// PATH, TERM with a terminal, HOSTNAME, then the image's, then the request's; HOME is the user's unless one of them has it.
pub(super) fn environment(
    input: &SpecInput<'_>,
    annotations: &mut HashMap<String, String>,
) -> Result<Vec<String>, SpecError> {
    let mut environment = Environment::default();
    environment.set_pair(DEFAULT_PATH);
    if input.container.tty {
        environment.set("TERM", b"xterm");
    }
    environment.set("HOSTNAME", namespace::hostname(input).as_bytes());
    let image = config(input).and_then(|image| image.env().as_deref()).unwrap_or_default();
    for pair in image.iter().filter(|pair| !pair.is_empty() && !pair.contains('\0')) {
        environment.set_pair(pair);
    }
    for variable in &input.container.envs {
        if variable.key.is_empty() || variable.key.contains(['=', '\0']) {
            return Err(invalid("envs.key", &variable.key, "is empty or has an equals sign or a NUL byte"));
        }
        if variable.value.contains(&0) {
            return Err(invalid("envs.value", &variable.key, "has a value with a NUL byte"));
        }
        environment.set(&variable.key, &variable.value);
    }
    if !environment.values.contains_key("HOME") {
        environment.set("HOME", input.user.home.as_deref().unwrap_or("/").as_bytes());
    }
    let Environment { keys, mut values } = environment;
    let mut pairs = Vec::with_capacity(keys.len());
    for key in keys {
        let value = values.remove(&key).unwrap_or_default();
        let text = String::from_utf8(value).unwrap_or_else(|error| {
            annotations.insert(format!("{RAW_ENV_ANNOTATION}{key}"), BASE64_STANDARD.encode(error.as_bytes()));
            String::from_utf8_lossy(error.as_bytes()).into_owned()
        });
        pairs.push(format!("{key}={text}"));
    }
    Ok(pairs)
}

/// The environment as the kernel takes it: the `Spec`'s, with values that are not UTF-8 put back.
pub fn raw_environment(spec: &Spec) -> Vec<Vec<u8>> {
    let raw = |key: &str| {
        let text = spec.annotations().as_ref()?.get(&format!("{RAW_ENV_ANNOTATION}{key}"))?;
        BASE64_STANDARD.decode(text).ok()
    };
    let pairs = spec.process().as_ref().and_then(|process| process.env().as_deref()).unwrap_or_default();
    let restore = |pair: &String| {
        let (key, _) = pair.split_once('=')?;
        Some([key.as_bytes(), b"=", &raw(key)?].concat())
    };
    pairs.iter().map(|pair| restore(pair).unwrap_or_else(|| pair.clone().into_bytes())).collect()
}
