//! What has to hold for any bytes that a plugin sends, and for any adjustments that it asks for.

use cri_api::v1::PodSandboxConfig;
use nri_api::v1alpha1::{Container, CreateContainerResponse, PodSandbox};
use nri_api::wire::{Decoder, Message, WireError};
use oci_spec::runtime::Spec;
use prost::Message as _;

use super::adjust_spec;
use super::merge::Creation;
use super::message::{of_spec, to_limits};
use crate::fuzz::Input;
use crate::libcontainer::spec::{CgroupMounts, HostFacts};

/// The first byte says whether the rest is what comes over the socket, or what two plugins answer.
pub(crate) fn plugin(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() {
        0 => hold(input.rest(), 1),
        1 => hold(input.rest(), 7),
        2 => hold(input.rest(), 5000),
        _ => adjust(input),
    }
}

/// Whatever the chunks are, the same messages come out, and what is understood is said again in the same words.
fn hold(bytes: &[u8], chunk: usize) {
    let whole = decode(bytes, usize::MAX);
    assert_eq!(decode(bytes, chunk), whole, "in chunks of {chunk}");
    for message in whole.iter().flatten() {
        let again = message.encode().expect("it was small enough to come");
        assert_eq!(decode(&again, usize::MAX).as_deref(), Ok(std::slice::from_ref(message)));
    }
}

fn decode(bytes: &[u8], chunk: usize) -> Result<Vec<Message>, WireError> {
    let (mut decoder, mut messages) = (Decoder::default(), Vec::new());
    for chunk in bytes.chunks(chunk) {
        messages.extend(decoder.push(chunk)?);
    }
    Ok(messages)
}

/// Nothing that plugins want breaks anything, and what the last of them saw is what is made.
fn adjust(mut input: Input<'_>) {
    let mut oci = Spec::default();
    let container = Container { id: "c".into(), ..of_spec(&oci, None) };
    let mut creation = Creation::new(PodSandbox::default(), container);
    for plugin in ["10-a", "20-b", "10-a"] {
        let length = usize::from(input.byte()) << 4;
        let Ok(reply) = CreateContainerResponse::decode(input.bytes(length)) else { continue };
        for update in &reply.update {
            let resources = update.linux.as_ref().and_then(|linux| linux.resources.as_ref());
            let _ = resources.map(to_limits);
        }
        if creation.apply(plugin, reply).is_err() {
            return;
        }
    }
    let _ = creation.validation().encode_to_vec();
    let (shown, asked, _) = creation.finish();
    let (pod, host) = (PodSandboxConfig::default(), host());
    if adjust_spec(&mut oci, &asked, &pod, None, &host).is_err() {
        return;
    }
    let made = of_spec(&oci, None);
    assert!(asked.args.is_empty() || made.args == shown.args, "{:?} and {:?}", made.args, shown.args);
}

fn host() -> HostFacts {
    HostFacts {
        held_caps: 0,
        oom_score_adj: 0,
        hostname: "h".into(),
        swap_limit: true,
        hugetlb: true,
        recursive_readonly: true,
        user_namespaces: true,
        apparmor: false,
        apparmor_default: None,
        selinux: false,
        cgroups: CgroupMounts::Unified,
        kernel: (6, 1),
    }
}
