//! Holds `proto/` to `fixtures/api-facts.tsv`, the table of what the API is: row by row, nothing missing, nothing extra.

use std::collections::BTreeSet;

use prost_reflect::{Cardinality, DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};

const PACKAGE: &str = "runtime.v1";
const FACTS: &str = include_str!("fixtures/api-facts.tsv");

fn pool() -> DescriptorPool {
    let set = protox::compile(["services.proto"], ["proto"]).expect("proto/ compiles");
    DescriptorPool::from_file_descriptor_set(set).expect("a whole set of files")
}

fn row(columns: [&str; 6]) -> String {
    columns.join("\t")
}

/// A name without its package; nested types keep their parent's.
fn local(full_name: &str) -> &str {
    full_name.strip_prefix("runtime.v1.").unwrap_or(full_name)
}

fn singular(kind: &Kind) -> String {
    match kind {
        Kind::Message(message) => message.name().to_owned(),
        Kind::Enum(values) => values.name().to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    }
}

fn type_of(field: &FieldDescriptor) -> String {
    match field.kind() {
        Kind::Message(entry) if field.is_map() => {
            let of = |field: FieldDescriptor| singular(&field.kind());
            format!("map<{},{}>", of(entry.map_entry_key_field()), of(entry.map_entry_value_field()))
        }
        kind if field.is_list() => format!("repeated {}", singular(&kind)),
        kind => singular(&kind),
    }
}

fn field_row(message: &MessageDescriptor, field: &FieldDescriptor) -> String {
    assert_ne!(field.cardinality(), Cardinality::Required, "{}", field.full_name());
    assert!(field.containing_oneof().is_none(), "{}: the API has no oneof and no `optional`", field.full_name());
    let deprecated = field.field_descriptor_proto().options.as_ref().is_some_and(|options| options.deprecated());
    let note = if deprecated { "deprecated" } else { "" };
    row(["field", local(message.full_name()), field.name(), &field.number().to_string(), &type_of(field), note])
}

fn enum_rows(values: &EnumDescriptor) -> Vec<String> {
    let scope = local(values.full_name());
    values.values().map(|v| row(["enum", scope, v.name(), &v.number().to_string(), "", ""])).collect()
}

fn compiled() -> Vec<String> {
    let pool = pool();
    let mut rows = Vec::new();
    for service in pool.services() {
        for method in service.methods() {
            let (input, output) = (method.input(), method.output());
            assert!(!method.is_client_streaming(), "{}: no RPC takes a stream", method.full_name());
            let stream = if method.is_server_streaming() { "stream " } else { "" };
            let answer = format!("{stream}{}", local(output.full_name()));
            rows.push(row(["rpc", local(service.full_name()), method.name(), "", local(input.full_name()), &answer]));
        }
    }
    for message in pool.all_messages().filter(|message| !message.is_map_entry()) {
        rows.extend(message.fields().map(|field| field_row(&message, &field)));
    }
    rows.extend(pool.all_enums().flat_map(|values| enum_rows(&values)));
    rows
}

#[test]
fn the_proto_says_what_the_table_says() {
    let table: BTreeSet<String> = FACTS.lines().skip(1).map(str::to_owned).collect();
    let compiled = compiled();
    let ours: BTreeSet<String> = compiled.iter().cloned().collect();
    assert_eq!(compiled.len(), ours.len(), "a row twice");
    assert_eq!(FACTS.lines().skip(1).count(), table.len(), "a row of the table twice");
    let missing: Vec<_> = table.difference(&ours).collect();
    let extra: Vec<_> = ours.difference(&table).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing: {missing:#?}\nnot in the table: {extra:#?}");
}

#[test]
fn everything_is_in_the_package_and_used() {
    let pool = pool();
    let services: Vec<_> = pool.services().map(|service| service.full_name().to_owned()).collect();
    assert_eq!(services, ["runtime.v1.RuntimeService", "runtime.v1.ImageService"]);
    assert!(pool.files().all(|file| file.package_name() == PACKAGE), "a file of another package");

    // Messages without fields have no row in the table; they count through the RPCs that name them.
    let mut reached = BTreeSet::new();
    let mut todo: Vec<MessageDescriptor> =
        pool.services().flat_map(|s| s.methods().flat_map(|m| [m.input(), m.output()]).collect::<Vec<_>>()).collect();
    while let Some(message) = todo.pop() {
        if reached.insert(message.full_name().to_owned()) {
            todo.extend(message.fields().filter_map(|field| field.kind().as_message().cloned()));
        }
    }
    let unreached: Vec<_> = pool
        .all_messages()
        .map(|message| message.full_name().to_owned())
        .filter(|name| !reached.contains(name))
        .collect();
    assert!(unreached.is_empty(), "no RPC leads to {unreached:?}");
}
