//! Our types against those of the independent crate `k8s-cri`, for every message the two share: what one encodes the
//! other reads, both ways, with nothing lost. Messages are made at random from the compiled descriptor.

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};

/// Decodes a message as one of a crate's types and encodes it again.
type Reencode = fn(&[u8]) -> Result<Vec<u8>, prost::DecodeError>;

fn reencode<M: Message + Default>(bytes: &[u8]) -> Result<Vec<u8>, prost::DecodeError> {
    M::decode(bytes).map(|message| message.encode_to_vec())
}

macro_rules! shared {
    ($($message:ident),* $(,)?) => {
        &[$((stringify!($message), reencode::<cri_api::v1::$message>, reencode::<k8s_cri::v1::$message>)),*]
    };
}

/// Every message that both crates have: its Rust name, ours, theirs.
const SHARED: &[(&str, Reencode, Reencode)] = shared![
    AttachRequest,
    AttachResponse,
    AuthConfig,
    CdiDevice,
    Capability,
    CheckpointContainerRequest,
    CheckpointContainerResponse,
    Container,
    ContainerAttributes,
    ContainerConfig,
    ContainerEventResponse,
    ContainerFilter,
    ContainerMetadata,
    ContainerMetrics,
    ContainerResources,
    ContainerStateValue,
    ContainerStats,
    ContainerStatsFilter,
    ContainerStatsRequest,
    ContainerStatsResponse,
    ContainerStatus,
    ContainerStatusRequest,
    ContainerStatusResponse,
    ContainerUser,
    CpuUsage,
    CreateContainerRequest,
    CreateContainerResponse,
    DnsConfig,
    Device,
    ExecRequest,
    ExecResponse,
    ExecSyncRequest,
    ExecSyncResponse,
    FilesystemIdentifier,
    FilesystemUsage,
    GetEventsRequest,
    HugepageLimit,
    IdMapping,
    Image,
    ImageFilter,
    ImageFsInfoRequest,
    ImageFsInfoResponse,
    ImageSpec,
    ImageStatusRequest,
    ImageStatusResponse,
    Int64Value,
    KeyValue,
    LinuxContainerConfig,
    LinuxContainerResources,
    LinuxContainerSecurityContext,
    LinuxContainerUser,
    LinuxPodSandboxConfig,
    LinuxPodSandboxStats,
    LinuxPodSandboxStatus,
    LinuxRuntimeConfiguration,
    LinuxSandboxSecurityContext,
    ListContainerStatsRequest,
    ListContainerStatsResponse,
    ListContainersRequest,
    ListContainersResponse,
    ListImagesRequest,
    ListImagesResponse,
    ListMetricDescriptorsRequest,
    ListMetricDescriptorsResponse,
    ListPodSandboxMetricsRequest,
    ListPodSandboxMetricsResponse,
    ListPodSandboxRequest,
    ListPodSandboxResponse,
    ListPodSandboxStatsRequest,
    ListPodSandboxStatsResponse,
    MemoryUsage,
    Metric,
    MetricDescriptor,
    Mount,
    Namespace,
    NamespaceOption,
    NetworkConfig,
    NetworkInterfaceUsage,
    NetworkUsage,
    PodIp,
    PodSandbox,
    PodSandboxAttributes,
    PodSandboxConfig,
    PodSandboxFilter,
    PodSandboxMetadata,
    PodSandboxMetrics,
    PodSandboxNetworkStatus,
    PodSandboxStateValue,
    PodSandboxStats,
    PodSandboxStatsFilter,
    PodSandboxStatsRequest,
    PodSandboxStatsResponse,
    PodSandboxStatus,
    PodSandboxStatusRequest,
    PodSandboxStatusResponse,
    PortForwardRequest,
    PortForwardResponse,
    PortMapping,
    ProcessUsage,
    PullImageRequest,
    PullImageResponse,
    RemoveContainerRequest,
    RemoveContainerResponse,
    RemoveImageRequest,
    RemoveImageResponse,
    RemovePodSandboxRequest,
    RemovePodSandboxResponse,
    ReopenContainerLogRequest,
    ReopenContainerLogResponse,
    RunPodSandboxRequest,
    RunPodSandboxResponse,
    RuntimeCondition,
    RuntimeConfig,
    RuntimeConfigRequest,
    RuntimeConfigResponse,
    RuntimeFeatures,
    RuntimeHandler,
    RuntimeHandlerFeatures,
    RuntimeStatus,
    SeLinuxOption,
    SecurityProfile,
    StartContainerRequest,
    StartContainerResponse,
    StatusRequest,
    StatusResponse,
    StopContainerRequest,
    StopContainerResponse,
    StopPodSandboxRequest,
    StopPodSandboxResponse,
    SwapUsage,
    UInt64Value,
    UpdateContainerResourcesRequest,
    UpdateContainerResourcesResponse,
    UpdateRuntimeConfigRequest,
    UpdateRuntimeConfigResponse,
    UserNamespace,
    VersionRequest,
    VersionResponse,
    WindowsContainerConfig,
    WindowsContainerResources,
    WindowsContainerSecurityContext,
    WindowsContainerStats,
    WindowsCpuGroupAffinity,
    WindowsCpuUsage,
    WindowsFilesystemUsage,
    WindowsMemoryUsage,
    WindowsNamespaceOption,
    WindowsNetworkInterfaceUsage,
    WindowsNetworkUsage,
    WindowsPodSandboxConfig,
    WindowsPodSandboxStats,
    WindowsProcessUsage,
    WindowsSandboxSecurityContext,
];

/// Messages younger than the `k8s-cri` we test with.
const YOUNGER_MESSAGES: &[&str] = &[
    "CheckpointPodRequest",
    "CheckpointPodResponse",
    "IoUsage",
    "PsiData",
    "PsiStats",
    "RestorePodRequest",
    "RestorePodResponse",
    "RestoredContainer",
    "StreamContainerStatsRequest",
    "StreamContainerStatsResponse",
    "StreamContainersRequest",
    "StreamContainersResponse",
    "StreamImagesRequest",
    "StreamImagesResponse",
    "StreamPodSandboxMetricsRequest",
    "StreamPodSandboxMetricsResponse",
    "StreamPodSandboxStatsRequest",
    "StreamPodSandboxStatsResponse",
    "StreamPodSandboxesRequest",
    "StreamPodSandboxesResponse",
    "UpdatePodSandboxResourcesRequest",
    "UpdatePodSandboxResourcesResponse",
];

/// Fields younger than it, in messages it has.
const YOUNGER_FIELDS: &[&str] = &[
    "ContainerConfig.stop_signal",
    "ContainerStats.io",
    "ContainerStatus.stop_signal",
    "CpuUsage.psi",
    "ImageSpec.image_ref",
    "LinuxPodSandboxStats.io",
    "MemoryUsage.psi",
    "Mount.image_sub_path",
    "Mount.mount_options",
    "RuntimeFeatures.mount_options",
    "RuntimeFeatures.user_namespaces_host_network",
];

fn pool() -> DescriptorPool {
    let set = protox::compile(["services.proto"], ["proto"]).expect("proto/ compiles");
    DescriptorPool::from_file_descriptor_set(set).expect("a whole set of files")
}

/// The pair of the proto's `name`; Rust names differ from it in case only (`PodIP`, `PodIp`).
fn shared(name: &str) -> Option<(Reencode, Reencode)> {
    SHARED.iter().find(|(rust, ..)| rust.eq_ignore_ascii_case(name)).map(|&(_, ours, theirs)| (ours, theirs))
}

fn is_younger(field: &FieldDescriptor) -> bool {
    let name = format!("{}.{}", field.parent_message().name(), field.name());
    YOUNGER_FIELDS.contains(&name.as_str())
}

/// Values by a seed, so that a failure repeats. (splitmix64)
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn text(&mut self) -> String {
        let length = self.next() % 12;
        (0..length).map(|_| char::from_u32((self.next() % 0x800) as u32).unwrap_or('?')).collect()
    }

    /// One value of a field's element type. `bytes` are UTF-8, as the older crate has a string in one place.
    fn value(&mut self, kind: &Kind, depth: u32) -> Value {
        match kind {
            Kind::Bool => Value::Bool(self.next().is_multiple_of(2)),
            Kind::Int32 => Value::I32(self.next() as i32),
            Kind::Int64 => Value::I64(self.next() as i64),
            Kind::Uint32 => Value::U32(self.next() as u32),
            Kind::Uint64 => Value::U64(self.next()),
            Kind::Double => Value::F64((self.next() >> 12) as f64 / 8.0),
            Kind::String => Value::String(self.text()),
            Kind::Bytes => Value::Bytes(self.text().into_bytes().into()),
            Kind::Enum(values) => {
                let index = self.next() as usize % values.values().len();
                Value::EnumNumber(values.values().nth(index).expect("within the length").number())
            }
            Kind::Message(message) => Value::Message(self.message(message, depth + 1)),
            other => panic!("the API has no {other:?}"),
        }
    }

    /// A message with about half of its fields set; all of them at the top. The API's messages do not contain themselves.
    fn message(&mut self, descriptor: &MessageDescriptor, depth: u32) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        for field in descriptor.fields().filter(|field| !is_younger(field)) {
            if depth > 0 && self.next().is_multiple_of(2) {
                continue;
            }
            let value = match field.kind() {
                Kind::Message(entry) if field.is_map() => {
                    let of = entry.map_entry_value_field().kind();
                    Value::Map((0..3).map(|_| (MapKey::String(self.text()), self.value(&of, depth))).collect())
                }
                kind if field.is_list() => {
                    Value::List((0..1 + self.next() % 3).map(|_| self.value(&kind, depth)).collect())
                }
                kind => self.value(&kind, depth),
            };
            message.set_field(&field, value);
        }
        message
    }
}

#[test]
fn the_list_of_shared_messages_is_whole() {
    let pool = pool();
    for message in pool.all_messages().filter(|message| !message.is_map_entry()) {
        let younger = YOUNGER_MESSAGES.contains(&message.name());
        assert_ne!(shared(message.name()).is_some(), younger, "{}", message.name());
    }
}

#[test]
fn each_crate_reads_what_the_other_writes() {
    let pool = pool();
    let mut random = Random(0xbe47);
    for descriptor in pool.all_messages() {
        let Some((ours, theirs)) = shared(descriptor.name()) else { continue };
        for _ in 0..40 {
            let decode = |bytes: &[u8]| DynamicMessage::decode(descriptor.clone(), bytes).expect("still a message");
            // Encoded once, so that a field set to its default is as absent as the wire has it.
            let sent = decode(&random.message(&descriptor, 0).encode_to_vec());
            let by_them = theirs(&sent.encode_to_vec()).expect("they read the descriptor's encoding");
            let by_us = ours(&by_them).expect("we read what they write");
            assert_eq!(decode(&by_us), sent, "{}: from them to us", descriptor.name());
            let back = theirs(&by_us).expect("they read what we write");
            assert_eq!(decode(&back), sent, "{}: from us to them", descriptor.name());
        }
    }
}

/// Keeps the list of younger fields honest: a field that `k8s-cri` has learnt must leave it.
#[test]
fn younger_fields_are_ours_alone() {
    let pool = pool();
    let mut random = Random(0xf1e1d);
    for name in YOUNGER_FIELDS {
        let (message, field) = name.split_once('.').expect("message and field");
        let descriptor = pool.get_message_by_name(&format!("runtime.v1.{message}")).expect("a message of ours");
        let field = descriptor.get_field_by_name(field).expect("a field of ours");
        let (ours, theirs) = shared(message).expect("a shared message");
        let one = match field.kind() {
            Kind::Message(of) => Value::Message(DynamicMessage::new(of)),
            Kind::Enum(_) => Value::EnumNumber(1),
            Kind::Bool => Value::Bool(true),
            kind => Value::String(format!("x{:?}", random.value(&kind, 1))),
        };
        let mut sent = DynamicMessage::new(descriptor.clone());
        sent.set_field(&field, if field.is_list() { Value::List(vec![one]) } else { one });
        let bytes = sent.encode_to_vec();
        assert_eq!(ours(&bytes).expect("ours"), bytes, "{name} is lost by us");
        assert!(theirs(&bytes).expect("they skip it").is_empty(), "{name} is known to k8s-cri: take it off the list");
    }
}
