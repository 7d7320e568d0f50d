//! A plugin: who it is, what it wants to be told, and how it is asked.

use std::sync::Arc;
use std::time::Duration;

use nri_api::v1alpha1::{
    ConfigureRequest, ConfigureResponse, Container, ContainerUpdate, Empty, Event, PodSandbox, RegisterPluginRequest,
    StateChangeEvent, SynchronizeRequest, SynchronizeResponse,
};
use prost::Message;
use tokio::sync::mpsc;

use super::connection::{CallError, Connection, Incoming, UNIMPLEMENTED, bad_request};
use super::{NriError, Settings};

/// The version of the interface that this is written after.
const NRI_VERSION: &str = "v0.12.1";

/// Below this many pods and containers in a message, a smaller message is no help.
const FEW: usize = 2;

/// A plugin's name: where in the order it stands, and what it is called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    /// Two digits.
    pub(super) index: String,
    pub(super) base: String,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.index, self.base)
    }
}

impl Name {
    pub(super) fn new(index: &str, base: &str) -> Result<Self, String> {
        if index.len() != 2 || !index.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("the index {index:?} is not two digits"));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
        if base.is_empty() || base.len() > 255 || !base.chars().all(plain) {
            return Err(format!("the name {base:?} is not letters, digits, '-', '_', '.' and '+'"));
        }
        Ok(Self { index: index.to_owned(), base: base.to_owned() })
    }

    /// `NN-NAME`, as the file of a plugin is called.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (index, base) = text.split_once('-').ok_or_else(|| format!("{text:?} is not NN-NAME"))?;
        Self::new(index, base)
    }
}

/// A plugin that was configured.
pub(super) struct Plugin {
    pub(super) name: Name,
    /// Bits of `Event`.
    events: i32,
    connection: Arc<Connection>,
    limit: Duration,
}

/// Waits until the other side says who it is.
pub(super) async fn registered(
    connection: &Connection,
    incoming: &mut mpsc::Receiver<Incoming>,
    known: Option<&Name>,
) -> Result<Name, String> {
    let Some(call) = incoming.recv().await else { return Err("it hung up before it had registered".into()) };
    if call.method != "RegisterPlugin" {
        return Err(format!("it called {:?} before it had registered", call.method));
    }
    let request = match RegisterPluginRequest::decode(call.payload.as_slice()) {
        Ok(request) => request,
        Err(error) => {
            connection.answer(&call, Err(bad_request(&error))).await;
            return Err(error.to_string());
        }
    };
    // What the agent has started is what its file is called.
    let name = known.map_or_else(|| Name::new(&request.plugin_idx, &request.plugin_name), |name| Ok(name.clone()));
    let answer = match &name {
        Ok(_) => Ok(Vec::new()),
        Err(reason) => Err(nri_api::ttrpc::Status { code: 3, message: reason.clone() }),
    };
    connection.answer(&call, answer).await;
    name
}

impl Plugin {
    /// Tells the plugin where it is, and learns what it wants.
    pub(super) async fn configure(
        name: Name,
        connection: Arc<Connection>,
        settings: &Settings,
        config: String,
    ) -> Result<Self, String> {
        let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        let request = ConfigureRequest {
            config,
            runtime_name: "berth".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            registration_timeout: millis(settings.registration_timeout),
            request_timeout: millis(settings.request_timeout),
            nri_version: NRI_VERSION.to_owned(),
        };
        let limit = settings.request_timeout;
        let asked = connection.call::<ConfigureResponse>("Configure", &request, limit).await;
        let ConfigureResponse { events } = asked.map_err(|error| format!("Configure: {error}"))?;
        if events & !Event::all() != 0 {
            return Err(format!("it subscribes to events that are not there ({events:#x})"));
        }
        // One that says nothing wants all.
        let events = if events == 0 { Event::all() } else { events };
        Ok(Self { name, events, connection, limit })
    }

    /// Tells it what is there already, in as few messages as hold it.
    pub(super) async fn synchronize(
        &self,
        pods: &[PodSandbox],
        containers: &[Container],
        limit: Duration,
    ) -> Result<Vec<ContainerUpdate>, String> {
        let (mut pods, mut containers) = (pods, containers);
        let (mut pods_each, mut containers_each) = (pods.len(), containers.len());
        loop {
            let (some, other) = (pods_each.min(pods.len()), containers_each.min(containers.len()));
            let more = some < pods.len() || other < containers.len();
            let request =
                SynchronizeRequest { pods: pods[..some].to_vec(), containers: containers[..other].to_vec(), more };
            match self.connection.call::<SynchronizeResponse>("Synchronize", &request, limit).await {
                Ok(answer) if !more => return Ok(answer.update),
                Ok(answer) if answer.more && answer.update.is_empty() => {
                    (pods, containers) = (&pods[some..], &containers[other..]);
                }
                Ok(_) => return Err("it does not take what is there in several messages".into()),
                Err(CallError::Oversized(_)) if some + other > FEW => {
                    (pods_each, containers_each) = (some.div_ceil(2), other.div_ceil(2));
                }
                Err(error) => return Err(format!("Synchronize: {error}")),
            }
        }
    }

    /// Asks about an event, if the plugin wants to be asked. `None`: it has nothing to say, or it has been disconnected because it
    /// did not answer.
    pub(super) async fn ask<A: Message + Default>(
        &self,
        event: Event,
        request: &impl Message,
    ) -> Result<Asked<A>, NriError> {
        if !self.wants(event) {
            return Ok(Asked::Nothing);
        }
        match self.connection.call(method(event), request, self.limit).await {
            Ok(answer) => Ok(Asked::Answer(answer)),
            Err(CallError::Refused { code: UNIMPLEMENTED, .. }) => Ok(Asked::Unserved),
            Err(error @ (CallError::Refused { .. } | CallError::Oversized(_))) => Err(self.refused(event, &error)),
            Err(error @ (CallError::Timeout(_) | CallError::Closed | CallError::Garbled(_))) => {
                self.disconnect(event, &error);
                Ok(Asked::Nothing)
            }
        }
    }

    /// Asks a plugin that may refuse what others have made. One that does not answer has not agreed.
    pub(super) async fn validate(&self, request: &impl Message) -> Result<(), NriError> {
        use nri_api::v1alpha1::ValidateContainerAdjustmentResponse as Answer;
        let event = Event::ValidateContainerAdjustment;
        if !self.wants(event) {
            return Ok(());
        }
        let reason = match self.connection.call::<Answer>(method(event), request, self.limit).await {
            // One without the method does not judge.
            Ok(Answer { reject: false, .. }) | Err(CallError::Refused { code: UNIMPLEMENTED, .. }) => return Ok(()),
            Ok(Answer { reason, .. }) if reason.is_empty() => "it gives no reason".to_owned(),
            Ok(Answer { reason, .. }) => reason,
            Err(error) => {
                if !matches!(error, CallError::Refused { .. } | CallError::Oversized(_)) {
                    self.connection.close();
                }
                error.to_string()
            }
        };
        Err(NriError::Refused { plugin: self.name.to_string(), event: method(event), reason })
    }

    /// Tells of an event by the one method that plugins had for all of them.
    pub(super) async fn tell_old(&self, event: Event, change: &StateChangeEvent) -> Result<(), NriError> {
        match self.connection.call::<Empty>("StateChange", change, self.limit).await {
            Ok(_) | Err(CallError::Refused { code: UNIMPLEMENTED, .. }) => Ok(()),
            Err(error @ (CallError::Refused { .. } | CallError::Oversized(_))) => Err(self.refused(event, &error)),
            Err(error) => {
                self.disconnect(event, &error);
                Ok(())
            }
        }
    }

    fn disconnect(&self, event: Event, error: &CallError) {
        let event = method(event);
        tracing::warn!(plugin = %self.name, event, %error, "the NRI plugin is disconnected; the request goes on without it");
        self.connection.close();
    }

    fn refused(&self, event: Event, error: &CallError) -> NriError {
        NriError::Refused { plugin: self.name.to_string(), event: method(event), reason: error.to_string() }
    }

    /// Whether it is to be asked about an event.
    pub(super) fn wants(&self, event: Event) -> bool {
        self.events & event.bit() != 0 && self.connection.is_open()
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

/// What a plugin says.
pub(super) enum Asked<A> {
    Answer(A),
    Nothing,
    /// It knows no method for that event.
    Unserved,
}

/// The method of `Plugin` that tells of an event.
pub(super) fn method(event: Event) -> &'static str {
    match event {
        Event::RunPodSandbox => "RunPodSandbox",
        Event::StopPodSandbox => "StopPodSandbox",
        Event::RemovePodSandbox => "RemovePodSandbox",
        Event::CreateContainer => "CreateContainer",
        Event::PostCreateContainer => "PostCreateContainer",
        Event::StartContainer => "StartContainer",
        Event::PostStartContainer => "PostStartContainer",
        Event::UpdateContainer => "UpdateContainer",
        Event::PostUpdateContainer => "PostUpdateContainer",
        Event::StopContainer => "StopContainer",
        Event::RemoveContainer => "RemoveContainer",
        Event::UpdatePodSandbox => "UpdatePodSandbox",
        Event::PostUpdatePodSandbox => "PostUpdatePodSandbox",
        Event::ValidateContainerAdjustment => "ValidateContainerAdjustment",
        Event::Unknown | Event::Last => "StateChange",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_two_digits_and_plain_letters() {
        let name = Name::parse("07-cpu-balloons.v2").unwrap();
        assert_eq!((name.index.as_str(), name.base.as_str()), ("07", "cpu-balloons.v2"));
        assert_eq!(name.to_string(), "07-cpu-balloons.v2");
        for bad in ["", "7-x", "123-x", "ab-x", "10", "10-", "10-a/b", "10-a b", "-1-x"] {
            assert!(Name::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Name::new("10", &"x".repeat(256)).is_err());
    }
}
