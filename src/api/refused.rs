//! What the API server refuses, each with a sentence that says what to do instead.
//!
//! A field of External Secrets Operator's that is not declared would be pruned in silence, or make strict clients refuse
//! the whole manifest with words that help nobody.

use schemars::Schema;

use super::{
    cron,
    schema::{Shape, field_rule, only, refuse, rule},
};

/// `spec` of an ExternalSecret.
pub(super) fn external_secret(schema: &mut Schema) {
    rule(
        schema,
        "has(self.data) && self.data.size() > 0 || has(self.dataFrom) && self.dataFrom.size() > 0",
        "data and dataFrom are both empty: name at least one remote secret in one of them",
    );
    rule(
        schema,
        "!(has(self.restart) && !(has(self.restart.mode) && self.restart.mode == 'Disabled') && has(self.target) && \
         has(self.target.creationPolicy) && self.target.creationPolicy == 'None')",
        "restart needs a Secret, and creationPolicy None writes none: remove restart, or let the Secret be written",
    );
    refuse(
        schema,
        "syncWindows",
        Shape::Object,
        "the Secret follows AWS at any time; remove the field, or hold it with the annotation keyturn.dev/suspend-sync-until",
    );
}

/// `restart`.
pub(super) fn restart(schema: &mut Schema) {
    rule(
        schema,
        "!(has(self.discovery) && self.discovery == 'Explicit') || has(self.targets) && self.targets.size() > 0",
        "discovery Explicit needs targets, it restarts nothing else: name at least one workload",
    );
}

/// An entry of `restart.targets`.
pub(super) fn restart_target(schema: &mut Schema) {
    rule(
        schema,
        "has(self.name) != has(self.selector)",
        "a target needs either name or selector: set name for one workload, or selector for all that have its labels",
    );
    rule(
        schema,
        "!has(self.strategy) || self.strategy != 'RestartAt' || self.kind == 'Rollout'",
        "strategy RestartAt is for a Rollout of Argo Rollouts: use Template or Evict, or leave it out",
    );
}

/// An entry of `restart.windows`: form and values. What they let pass and the parser does not, the condition reports.
pub(super) fn restart_window(schema: &mut Schema) {
    field_rule(
        schema,
        "cron",
        &format!("self.matches('{}')", cron::FIVE_FIELDS),
        "cron needs five fields: minute, hour, day of month, month and day of week, such as 0 2 * * *",
    );
    for (place, field) in cron::FIELDS.iter().enumerate() {
        let (rule, message) = (cron::pattern(place, field), field.message);
        // The count of fields is told by the rule above.
        let rule = format!("!self.matches('{}') || self.matches('{rule}')", cron::FIVE_FIELDS);
        field_rule(schema, "cron", &rule, message);
    }
    field_rule(
        schema,
        "cron",
        &format!(
            "!self.findAll('[0-9]+-[0-9]+').exists(range, int(range.split('-')[0]) > int(range.split('-')[1])) && \
             !self.matches('{}')",
            cron::descending_names()
        ),
        "ranges in cron must ascend: write 22-23,0-6 instead of 22-6, and 5-7 instead of FRI-SUN",
    );
    field_rule(
        schema,
        "duration",
        "duration(self) >= duration('1m') && duration(self) <= duration('168h')",
        "duration of a window must be from 1m to 168h, such as 2h",
    );
    field_rule(
        schema,
        "timeZone",
        &format!("self.matches('{TIME_ZONE}')"),
        "timeZone must be a name of the IANA database such as Europe/Vienna: correct it, or leave it out for UTC",
    );
}

/// The form of all names of time zones.
pub(super) const TIME_ZONE: &str = "^[A-Za-z][A-Za-z0-9+_./-]*$";

/// `target`.
pub(super) fn target(schema: &mut Schema) {
    refuse(
        schema,
        "template",
        Shape::Object,
        "this version does not render templates yet; store the value in AWS in the form that is needed",
    );
    refuse(
        schema,
        "manifest",
        Shape::Object,
        "only Secrets are written; remove the field and copy from the Secret what other kinds need",
    );
    field_rule(
        schema,
        "creationPolicy",
        "!(self in ['Merge', 'CreateOrMerge'])",
        "this version writes whole Secrets only, Merge and CreateOrMerge come later: use Owner or Orphan with a Secret of its \
         own, and mount both",
    );
    field_rule(
        schema,
        "creationPolicy",
        "self in ['Owner', 'Orphan', 'None', 'Merge', 'CreateOrMerge']",
        "creationPolicy must be Owner, Orphan or None",
    );
    rule(
        schema,
        "!(has(self.deletionPolicy) && self.deletionPolicy == 'Delete' && has(self.creationPolicy) && self.creationPolicy \
         in ['Orphan', 'None'])",
        "deletionPolicy Delete needs creationPolicy Owner: a Secret that is not owned is never deleted; use Retain or Merge",
    );
    rule(
        schema,
        "!(has(self.deletionPolicy) && self.deletionPolicy == 'Merge' && has(self.creationPolicy) && self.creationPolicy == \
         'None')",
        "deletionPolicy Merge needs a Secret, and creationPolicy None writes none: use Retain",
    );
    rule(
        schema,
        "!(has(self.creationPolicy) && self.creationPolicy == 'None' && (has(self.immutable) && self.immutable || \
         has(self.adoptExisting) && self.adoptExisting))",
        "immutable and adoptExisting need a Secret, and creationPolicy None writes none: remove them",
    );
}

/// An entry of `data`.
pub(super) fn data_entry(schema: &mut Schema) {
    field_rule(
        schema,
        "secretKey",
        "self != '.' && !self.startsWith('..')",
        "secretKey must not be . nor start with .. since Kubernetes refuses such keys: choose another name",
    );
    refuse(
        schema,
        "sourceRef",
        Shape::Object,
        "this version reads all entries through secretStoreRef; make one ExternalSecret for each store",
    );
}

/// An entry of `dataFrom`.
pub(super) fn data_from_entry(schema: &mut Schema) {
    rule(
        schema,
        "has(self.extract) || has(self.find) || has(self.sourceRef)",
        "an entry of dataFrom needs extract: name the remote secret whose members become keys",
    );
    refuse(
        schema,
        "find",
        Shape::Object,
        "this version does not search for secrets yet; name each one in data or in dataFrom[].extract",
    );
    refuse(
        schema,
        "rewrite",
        Shape::Objects,
        "this version does not rename keys yet; name each one in data with the secretKey that is wanted",
    );
    refuse(
        schema,
        "sourceRef",
        Shape::Object,
        "this version reads all entries through secretStoreRef and has no generators; make one ExternalSecret for each store",
    );
}

/// A remote reference: `remoteRef` and `extract`.
pub(super) fn remote_ref(schema: &mut Schema) {
    only(
        schema,
        "metadataPolicy",
        "None",
        "this version reads values, not tags; copy what is needed into the value",
    );
    only(
        schema,
        "decodingStrategy",
        "None",
        "this version does not decode yet; store the value in AWS decoded, binary values are kept as they are",
    );
    only(
        schema,
        "conversionStrategy",
        "Default",
        "in keys made by extract each character that Kubernetes refuses becomes _; name other keys in data",
    );
    only(
        schema,
        "nullBytePolicy",
        "Ignore",
        "values are kept as they are; check them where they are used",
    );
}

/// What both kinds of stores share.
pub(super) fn store(schema: &mut Schema) {
    refuse(
        schema,
        "controller",
        Shape::Text,
        "every store of this API group is Keyturn's; remove the field",
    );
    refuse(
        schema,
        "retrySettings",
        Shape::Object,
        "retries back off by themselves and adapt to throttling; remove the field",
    );
    refuse(
        schema,
        "refreshInterval",
        Shape::NumberOrText,
        "the identity is proved when the store changes and when credentials are renewed; remove the field",
    );
}

/// `spec` of a SecretStore.
pub(super) fn namespaced_store(schema: &mut Schema) {
    rule(
        schema,
        "!has(self.conditions)",
        "conditions are for a ClusterSecretStore: a SecretStore serves its own namespace only; remove them",
    );
}

/// `provider.aws`.
pub(super) fn aws(schema: &mut Schema) {
    field_rule(
        schema,
        "service",
        "self == 'SecretsManager'",
        "service must be SecretsManager: this version reads no parameters of Systems Manager and no certificates; copy them \
         into Secrets Manager",
    );
    refuse(
        schema,
        "additionalRoles",
        Shape::Texts,
        "this version assumes one role; let the trust policy of role admit the base identity directly",
    );
    refuse(
        schema,
        "sessionTags",
        Shape::Objects,
        "this version tags no sessions; use one role for each tenant instead of conditions on tags",
    );
    refuse(
        schema,
        "transitiveTagKeys",
        Shape::Texts,
        "this version tags no sessions; remove the field",
    );
    only(
        schema,
        "sessionTagsPolicy",
        "None",
        "this version tags no sessions; use one role for each tenant instead of conditions on tags",
    );
    refuse(
        schema,
        "customSessionTags",
        Shape::Objects,
        "this version tags no sessions; use one role for each tenant instead of conditions on tags",
    );
    refuse(
        schema,
        "secretsManager",
        Shape::Object,
        "it only concerns deleting from AWS, and Keyturn never writes there; remove the field",
    );
    refuse(
        schema,
        "events",
        Shape::Object,
        "this version reads no events; set a shorter refreshInterval where changes must arrive sooner",
    );
}

/// `auth`.
pub(super) fn auth(schema: &mut Schema) {
    rule(
        schema,
        "has(self.jwt) != has(self.secretRef)",
        "auth needs either jwt or secretRef: set one, or remove auth to read as the operator",
    );
}

/// An entry of a store's `conditions`.
pub(super) fn condition(schema: &mut Schema) {
    rule(
        schema,
        "has(self.namespaceSelector) || has(self.namespaces) || has(self.namespaceRegexes)",
        "a condition needs namespaceSelector, namespaces or namespaceRegexes: an empty one admits nobody",
    );
}

#[cfg(test)]
mod tests;
