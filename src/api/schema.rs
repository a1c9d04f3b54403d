//! The parts that schemas are put together from.

use schemars::Schema;
use serde_json::{Map, Value, json};

/// A Go duration that is not negative.
const DURATION: &str = r"^(0|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+)$";
/// The name of most objects (a DNS subdomain).
pub(super) const OBJECT_NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// A key of a Secret, but for `.` and a leading `..`.
pub(super) const SECRET_KEY: &str = r"^[-._a-zA-Z0-9]+$";
/// A region of AWS: it becomes part of a host name.
pub(super) const REGION: &str = r"^[a-z0-9]+(-[a-z0-9]+)*$";
/// The ARN of an IAM role, or nothing.
pub(super) const ROLE_ARN: &str = r"^(arn:aws[-a-z]*:iam::[0-9]{12}:role/.+)?$";

/// What a field holds that is declared only to be refused.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// An object with any members.
    Object,
    /// A list of objects.
    Objects,
    /// A list of texts.
    Texts,
    /// A text.
    Text,
    /// A number or a text.
    NumberOrText,
}

impl Shape {
    fn schema(self) -> Value {
        let object = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        match self {
            Self::Object => object,
            Self::Objects => json!({"type": "array", "maxItems": 100, "items": object}),
            Self::Texts => {
                json!({"type": "array", "maxItems": 100, "items": {"type": "string", "maxLength": 2048}})
            }
            Self::Text => json!({"type": "string", "maxLength": 256}),
            Self::NumberOrText => json!({"x-kubernetes-int-or-string": true}),
        }
    }
}

/// Adds a rule to the object that `schema` describes.
pub(super) fn rule(schema: &mut Schema, rule: &str, message: &str) {
    push(schema.ensure_object(), rule, message);
}

/// The text that `schema` describes is a Go duration. The API server shows a regular expression where a pattern does not match,
/// and this sentence where a rule does not hold.
pub(super) fn duration(schema: &mut Schema) {
    rule(
        schema,
        &format!("self.matches(r'{DURATION}')"),
        "must be a Go duration such as 90s, 30m or 1h30m; days are not known: write 24h",
    );
}

/// Adds a rule to the property `field` of the object that `schema` describes.
pub(super) fn field_rule(schema: &mut Schema, field: &str, rule: &str, message: &str) {
    let property = schema
        .ensure_object()
        .get_mut("properties")
        .and_then(|all| all.get_mut(field));
    if let Some(property) = property.and_then(Value::as_object_mut) {
        push(property, rule, message);
    }
}

/// Declares the property `field`, so that it is refused with a sentence instead of being pruned in silence.
pub(super) fn refuse(schema: &mut Schema, field: &str, shape: Shape, instead: &str) {
    declare(schema, field, shape, &format!("Not supported: {instead}"));
    rule(
        schema,
        &format!("!has(self.{field})"),
        &format!("{field} is not supported: {instead}"),
    );
}

/// Declares the property `field`, of which only `value` is accepted: what happens anyway.
pub(super) fn only(schema: &mut Schema, field: &str, value: &str, instead: &str) {
    declare(
        schema,
        field,
        Shape::Text,
        &format!("Only `{value}`, which is also the default: {instead}"),
    );
    rule(
        schema,
        &format!("!has(self.{field}) || self.{field} == '{value}'"),
        &format!("{field} can only be {value}: {instead}"),
    );
}

fn declare(schema: &mut Schema, field: &str, shape: Shape, description: &str) {
    let mut property = shape.schema();
    if let Some(property) = property.as_object_mut() {
        property.insert("description".to_owned(), json!(description));
    }
    let properties = schema
        .ensure_object()
        .entry("properties")
        .or_insert_with(|| Value::Object(Map::new()));
    if let Some(properties) = properties.as_object_mut() {
        properties.insert(field.to_owned(), property);
    }
}

fn push(schema: &mut Map<String, Value>, rule: &str, message: &str) {
    let rules = schema
        .entry("x-kubernetes-validations")
        .or_insert_with(|| Value::Array(Vec::new()));
    if let Some(rules) = rules.as_array_mut() {
        rules.push(json!({"rule": rule, "message": message}));
    }
}
