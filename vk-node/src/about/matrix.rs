//! Which fields of pods are honoured, as a table: rows that say the same are one row.

use std::fmt::Write as _;

use vk_core::provider::{FieldSupport, Support};

/// A row: a field, or something of which everything below it has the same answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) path: String,
    pub(super) cells: Vec<String>,
}

/// The kinds of containers, of which `*` means all.
const KINDS: [&str; 3] = ["spec.containers[]", "spec.initContainers[]", "spec.ephemeralContainers[]"];

/// Puts together what has the same answers. The fields come with their paths in order.
pub(super) fn fold(fields: Vec<Row>) -> Vec<Row> {
    let mut rows = Vec::new();
    fold_below("spec", fields, &mut rows);
    // What is so for containers of every kind is told once, where it first stands.
    let mut merged: Vec<Row> = Vec::new();
    for row in &rows {
        let general = KINDS.iter().find_map(|kind| row.path.strip_prefix(kind)).and_then(|rest| {
            let alike = |kind: &str| Row { path: format!("{kind}{rest}"), cells: row.cells.clone() };
            KINDS
                .iter()
                .all(|kind| rows.contains(&alike(kind)))
                .then(|| Row { path: format!("*{rest}"), ..row.clone() })
        });
        let row = general.unwrap_or_else(|| row.clone());
        if !merged.contains(&row) {
            merged.push(row);
        }
    }
    merged
}

fn fold_below(prefix: &str, fields: Vec<Row>, rows: &mut Vec<Row>) {
    let mut rest = fields.into_iter().peekable();
    while let Some(first) = rest.next() {
        let name = part_below(prefix, &first.path).to_owned();
        let path = format!("{prefix}{name}");
        let mut group = vec![first];
        while let Some(next) = rest.next_if(|next| part_below(prefix, &next.path) == name) {
            group.push(next);
        }
        let alike = group.iter().all(|row| row.cells == group[0].cells);
        match group.len() {
            1 => rows.append(&mut group),
            _ if alike => rows.push(Row {
                path: path.trim_end_matches("[]").to_owned(),
                cells: group.swap_remove(0).cells,
            }),
            _ => {
                // A field that has fields below it and is answered differently.
                let own = group.iter().position(|row| row.path == path);
                rows.extend(own.map(|index| group.remove(index)));
                fold_below(&path, group, rows);
            }
        }
    }
}

/// The next part of a path, with its dot; lists and what is in them belong together.
fn part_below<'a>(prefix: &str, path: &'a str) -> &'a str {
    let rest = path.strip_prefix(prefix).unwrap_or(path);
    let end = rest.get(1..).and_then(|after| after.find('.')).map_or(rest.len(), |end| end + 1);
    &rest[..end]
}

/// What a provider does with the fields of pods: with those that it does not honour fully, or with all.
pub(super) fn of(support: &FieldSupport, all: bool) -> String {
    let wanted = |support: &Support| {
        all || matches!(support, Support::Refused(_) | Support::Only { .. } | Support::Partly(_))
    };
    let fields = support.iter().map(|(field, support)| Row {
        path: field.path.clone(),
        cells: vec![if wanted(support) { support.to_string() } else { String::new() }],
    });
    let rows = fold(fields.collect());
    let shown: Vec<_> = rows.iter().filter(|row| !row.cells[0].is_empty()).collect();
    let width = shown.iter().map(|row| row.path.len()).max().unwrap_or(0);
    let mut text = String::new();
    for row in shown {
        let _ = writeln!(text, "  {:<width$} {}", row.path, row.cells[0]);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use vk_core::provider::{Field, Owner};

    use super::*;

    /// What `PodRunner` does, whatever the backend that it runs containers on.
    fn of_runner(field: &Field, base: &Support) -> String {
        match (field.owner, base) {
            (Owner::Backend, _) => "the backend".to_owned(),
            (_, base) => base.to_string(),
        }
    }

    fn page() -> String {
        let (mock, process) = (vk_mock::fields(), vk_process::fields());
        let base = FieldSupport::of_containers("any");
        let fields = mock.iter().zip(process.iter()).zip(base.iter());
        let rows = fields.map(|(((field, mock), (_, process)), (_, base))| Row {
            path: field.path.clone(),
            cells: vec![of_runner(field, base), mock.to_string(), process.to_string()],
        });
        let mut page = String::from(
            "# Fields of pods\n\n\
             Made from the providers' own answers; `VK_UPDATE=1 cargo test -p vk-node about` writes it again.\n\n\
             A pod that asks for a field which its provider does not honour is refused before anything of it is \
             created: it is\n`Failed` with reason `ProviderRejected`, its message and a warning event name every such \
             field and what to do, and\n`vk_pod_unsupported_fields_total` counts them. Fields that \
             [`ignoredFields`](configuration.md#nodedefaults) names are left\nout of what the provider is given \
             instead, and the pod gets a warning event `UnsupportedField`. Of a running pod that is\ngiven an \
             ephemeral container with such a field, that container alone is not started. A pod that runs already is \
             never\nrefused.\n\n\
             Only what a pod asks for counts: not `hostNetwork: false`, not `securityContext: {}`, nothing that the \
             API server writes\nby itself, such as `dnsPolicy: ClusterFirst` or the volume `kube-api-access-…`. A \
             `restartPolicy` of `Always` is such a\ndefault, too: on a provider that restarts nothing it is not \
             refused. A container that has ended stays so\nthere. The pod is `Running` and not ready until the provider \
             tells its sandbox to be gone, then `Succeeded` or `Failed`\nby its exit codes; a Deployment makes \
             another then.\n\n\
             - *control plane*: the API server's, the scheduler's or a controller's business.\n\
             - *node*: done by the node itself, on every provider.\n\
             - *native*: done by the provider. The mock runs nothing: it takes the field, and what its script says \
             happens.\n\
             - *partly*: done by the provider, but for what is said.\n\
             - *only*: these values, or these keys of a map, and no others.\n\
             - *refused*: with these words.\n\n\
             A row stands for everything below its field, too. `*` is each of `spec.containers[]`, \
             `spec.initContainers[]` and\n`spec.ephemeralContainers[]`. The column *PodRunner* is what holds for any \
             backend that only runs containers;\n*process* is such a backend.\n\n\
             | field | PodRunner | mock | process |\n|---|---|---|---|\n",
        );
        for row in fold(rows.collect()) {
            let _ = writeln!(page, "| `{}` | {} |", row.path, row.cells.join(" | "));
        }
        page
    }

    #[test]
    fn the_page_about_fields_is_up_to_date() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/fields.md");
        let page = page();
        if std::env::var_os("VK_UPDATE").is_some() {
            std::fs::write(&path, &page).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(written, page, "VK_UPDATE=1 cargo test -p vk-node about");
    }

    #[test]
    fn what_has_the_same_answers_is_one_row_and_what_differs_is_not() {
        let row = |path: &str, cell: &str| Row { path: path.to_owned(), cells: vec![cell.to_owned()] };
        let rows = fold(vec![
            row("spec.a.b", "x"),
            row("spec.a.c[].d", "x"),
            row("spec.containers[].n", "y"),
            row("spec.ephemeralContainers[].n", "y"),
            row("spec.initContainers", "z"),
            row("spec.initContainers[].m", "x"),
            row("spec.initContainers[].n", "y"),
        ]);
        let wanted = [
            row("spec.a", "x"),
            row("*.n", "y"),
            row("spec.initContainers", "z"),
            row("spec.initContainers[].m", "x"),
        ];
        assert_eq!(rows, wanted);
    }

    #[test]
    fn every_field_that_a_provider_refuses_is_refused_with_its_name_and_no_other_is() {
        for support in [vk_mock::fields(), vk_mock::fields_of_containers(), vk_process::fields()] {
            vk_core::provider::fields::check(support).unwrap();
        }
        let refused = vk_process::fields().iter().filter(|(_, support)| support.is_refusal()).count();
        assert!(refused > 100, "{refused}");
    }

    /// What the recorded pods ask for and processes cannot give, by case: a kubelet refuses that pod, too.
    const REFUSED: [(&str, &str); 1] = [("admission-sysctl-forbidden", "spec.securityContext.sysctls")];

    #[test]
    fn the_pods_of_the_recorded_cases_are_taken_by_the_process_provider() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/oracle/cases");
        let mut refused = Vec::new();
        let mut pods = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let case: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
            let Some(pod) = case.get("pod").filter(|pod| !pod.is_null()) else { continue };
            let pod =
                serde_json::from_value(serde_json::json!({"metadata": {}, "spec": pod["spec"]})).unwrap();
            pods += 1;
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let found = vk_core::provider::unsupported(&pod, vk_process::fields());
            refused.extend(found.into_iter().map(|finding| (name.clone(), finding.field)));
        }
        assert!(pods > 50, "{pods}");
        assert_eq!(refused, REFUSED.map(|(case, field)| (case.to_owned(), field)));
    }
}
