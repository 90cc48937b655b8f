//! `deploy/`: each file is held to the strongest tool that can be had without containers, a cluster or a running systemd; all of
//! them to the binary, to `deploy/deepfm.toml` and to each other. Whatever checks here is first seen to refuse something.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;

use deepfm_stream::simulate;
use serde_json::{Value, json};

use crate::support::command::Running;
use crate::support::http::{Client, address_in};
use crate::support::{broker, python, skip, wait_for};

/// What reads and checks the files: parsers of YAML and of Dockerfiles (that of the builder itself), and the schemas of
/// Compose and of Kubernetes.
const PACKAGES: [&str; 3] = ["check-jsonschema>=0.36", "kubernetes-validate>=1.33", "dockerfile>=3.3"];
const IMPORTS: &str = "import check_jsonschema, kubernetes_validate, dockerfile, ruamel.yaml, yaml";

/// Where the image has the binary, and the units look for it.
const INSTALLED: &str = "/usr/local/bin/deepfm";

const UNITS: [&str; 2] = ["deepfm-worker.service", "deepfm-serve@.service"];

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The Python of these tests; one at a time makes it.
fn python(test: &str) -> Option<PathBuf> {
    static MAKING: Mutex<()> = Mutex::new(());
    let _alone = MAKING.lock().expect("nobody fails here");
    python::with(test, "deploy", &PACKAGES, IMPORTS)
}

/// Runs a command with a text on its standard input.
fn fed(command: &mut Command, text: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    child.stdin.take().expect("it is a pipe").write_all(text.as_bytes()).expect("it reads");
    child.wait_with_output().expect("it ends")
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("it is text")
}

/// The documents of a YAML text.
fn documents(python: &Path, yaml: &str) -> Vec<Value> {
    let program = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.stdin))))";
    serde_json::from_str(&text(&fed(Command::new(python).args(["-c", program]), yaml))).expect("it is JSON")
}

fn compose(python: &Path) -> Value {
    documents(python, &read(&deploy("compose.yaml"))).remove(0)
}

/// The instructions of the Dockerfile, stage by stage.
#[derive(Debug, serde::Deserialize)]
struct Instruction {
    cmd: String,
    is_exec: bool,
    value: Vec<String>,
}

fn stages(python: &Path) -> Vec<Vec<Instruction>> {
    let program = "import dockerfile, json, sys\n\
                   parsed = dockerfile.parse_string(sys.stdin.read())\n\
                   print(json.dumps([{'cmd': c.cmd.upper(), 'is_exec': c.json, 'value': c.value} for c in parsed]))";
    let output = fed(Command::new(python).args(["-c", program]), &read(&deploy("Dockerfile")));
    let instructions: Vec<Instruction> = serde_json::from_str(&text(&output)).expect("it is JSON");
    let mut stages: Vec<Vec<Instruction>> = Vec::new();
    for instruction in instructions {
        if instruction.cmd == "FROM" {
            stages.push(Vec::new());
        }
        stages.last_mut().expect("a Dockerfile begins with FROM").push(instruction);
    }
    stages
}

/// The value of the last instruction of a kind.
fn last<'s>(stage: &'s [Instruction], cmd: &str) -> &'s Instruction {
    stage.iter().rfind(|instruction| instruction.cmd == cmd).unwrap_or_else(|| panic!("no {cmd}"))
}

/// What a stage installs with apt-get.
fn installed(stage: &[Instruction]) -> BTreeSet<String> {
    let run = stage.iter().find(|run| run.cmd == "RUN" && run.value[0].contains("apt-get install"));
    let command = &run.expect("it installs something").value[0];
    let (_, packages) = command.split_once("--no-install-recommends ").expect("nothing beyond what is named");
    packages.split_whitespace().take_while(|word| *word != "&&").map(str::to_owned).collect()
}

fn words(value: &Value) -> Vec<String> {
    let words = value.as_array().unwrap_or_else(|| panic!("{value} is no list")).iter();
    words.map(|word| word.as_str().unwrap_or_else(|| panic!("{word} is no text")).to_owned()).collect()
}

/// The base, built; `None` where there is no kubectl.
fn kustomized(test: &str, python: &Path) -> Option<(String, Vec<Value>)> {
    let Ok(output) = Command::new("kubectl").arg("kustomize").arg(deploy("k8s")).output() else {
        skip(test, "no kubectl");
        return None;
    };
    let built = text(&output);
    let objects = documents(python, &built);
    Some((built, objects))
}

fn of_kind<'o>(objects: &'o [Value], kind: &str) -> &'o Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    let only = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "two of {kind}");
    only
}

fn container(object: &Value) -> &Value {
    &object["spec"]["template"]["spec"]["containers"][0]
}

/// What a configuration with these environment variables comes to.
fn shown(config: &Path, environment: &BTreeMap<String, String>) -> Value {
    let mut show = Command::new(env!("CARGO_BIN_EXE_deepfm"));
    show.args(["config", "show", "--json", "--config"]).arg(config).envs(environment);
    serde_json::from_str(&text(&show.output().expect("the binary starts"))).expect("it is JSON")
}

fn environment(service: &Value) -> BTreeMap<String, String> {
    let set = service["environment"].as_object().expect("it has an environment").iter();
    set.map(|(key, value)| (key.clone(), value.as_str().expect("a text").to_owned())).collect()
}

/// The value of each `key=` of a unit.
fn settings<'u>(unit: &'u str, key: &str) -> Vec<&'u str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

fn setting<'u>(unit: &'u str, key: &str) -> &'u str {
    let found = settings(unit, key);
    assert_eq!(found.len(), 1, "{key}: {found:?}");
    found[0]
}

/// The command lines of all files, without the program.
fn command_lines(python: &Path, objects: &[Value]) -> Vec<Vec<String>> {
    let mut lines: Vec<Vec<String>> = Vec::new();
    let services = compose(python);
    let ours = services["services"].as_object().expect("services").values();
    lines.extend(ours.filter(|service| service["image"] == "deepfm-stream").map(|service| words(&service["command"])));
    for name in UNITS {
        let unit = read(&deploy("systemd").join(name)).replace("%i", "8000");
        let line = setting(&unit, "ExecStart").strip_prefix(INSTALLED).expect("it starts the binary");
        lines.push(line.split_whitespace().map(str::to_owned).collect());
    }
    lines.extend(["StatefulSet", "Deployment"].map(|kind| words(&container(of_kind(objects, kind))["args"])));
    let stages = stages(python);
    lines.push(last(stages.last().expect("a stage"), "CMD").value.clone());
    lines
}

/// Whether the binary takes a command line, which it says without carrying it out.
fn is_taken(line: &[String]) -> bool {
    let mut command = Command::new(env!("CARGO_BIN_EXE_deepfm"));
    let output = command.args(line).arg("--help").env_remove("DEEPFM_CONFIG").output();
    output.expect("the binary starts").status.success()
}

#[test]
fn every_command_line_of_the_deployments_is_one_that_the_binary_takes() {
    let test = "every_command_line_of_the_deployments_is_one_that_the_binary_takes";
    let Some(python) = python(test) else { return };
    let Some((_, objects)) = kustomized(test, &python) else { return };
    let split = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    for wrong in ["run --no-such-flag", "serve --drain-seconds soon", "walk"] {
        assert!(!is_taken(&split(wrong)), "{wrong}");
    }
    let lines = command_lines(&python, &objects);
    assert_eq!(lines.len(), 10, "{lines:?}");
    for line in lines {
        assert!(is_taken(&line), "{line:?}");
    }
}

#[test]
fn systemd_has_nothing_to_say_against_the_units() {
    let test = "systemd_has_nothing_to_say_against_the_units";
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        skip(test, "no systemd-analyze");
        return;
    }
    let place = tempfile::tempdir().expect("a directory of our own");
    let verify = |name: &str, unit: &str| {
        // It looks for the program too.
        let here = unit.replace(INSTALLED, env!("CARGO_BIN_EXE_deepfm"));
        fs::write(place.path().join(name), here).expect("the disk takes it");
        // An instance has the name of its port.
        let instance = place.path().join(name.replace('@', "@8000"));
        let output = Command::new("systemd-analyze").arg("verify").arg(&instance).output().expect("it was there");
        let exposure = ["security", "--offline=true", "--threshold=20"];
        let secured = Command::new("systemd-analyze").args(exposure).arg(&instance).output().expect("it was there");
        (output.status.success() && output.stderr.is_empty(), secured.status.success(), output)
    };
    for name in UNITS {
        let unit = read(&deploy("systemd").join(name));
        let (is_well, is_confined, output) = verify(name, &unit);
        assert!(is_well, "{name}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(is_confined, "{name} is exposed by more than 2.0");
        assert!(!verify(name, &unit.replace("Restart=", "Restarts=")).0, "{name}: a wrong key is not noticed");
        let (open, _) = unit.split_once("NoNewPrivileges=").expect("what confines it comes last");
        assert!(!verify(name, open).1, "{name}: an open door is not noticed");
    }
    let users = Command::new("systemd-sysusers").arg("--dry-run").arg(deploy("systemd/deepfm.sysusers.conf")).output();
    let users = users.expect("it comes with systemd-analyze");
    assert!(users.status.success(), "{}", String::from_utf8_lossy(&users.stderr));
}

#[test]
fn the_units_restart_after_the_exit_codes_that_a_restart_mends() {
    let readme = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"));
    let rows = readme.lines().skip_while(|line| !line.starts_with("| code | meaning |")).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|')).map(|row| row.split('|').map(str::trim).collect());
    let rows: Vec<Vec<&str>> = rows.collect();
    let is_final = |row: &&Vec<&str>| row[1] != "0" && !row[3].starts_with("restart");
    let wanted: Vec<&str> = rows.iter().filter(is_final).map(|row| row[1]).collect();
    assert!(wanted.contains(&"75") && !wanted.contains(&"69"), "{wanted:?}");
    let users = read(&deploy("systemd/deepfm.sysusers.conf"));
    for name in UNITS {
        let unit = read(&deploy("systemd").join(name));
        let found: Vec<&str> = setting(&unit, "RestartPreventExitStatus").split(' ').collect();
        assert_eq!((setting(&unit, "Restart"), found), ("on-failure", wanted.clone()), "{name}");
        let made = ["u", setting(&unit, "User")];
        assert!(users.lines().any(|line| line.split_whitespace().take(2).eq(made)), "{made:?} is not made");
    }
}

#[test]
fn the_compose_file_is_of_the_official_schema() {
    let test = "the_compose_file_is_of_the_official_schema";
    let Some(python) = python(test) else { return };
    let check = |yaml: &str| {
        let arguments =
            ["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "--default-filetype", "yaml", "-"];
        fed(Command::new(&python).args(arguments), yaml)
    };
    let file = read(&deploy("compose.yaml"));
    let output = check(&file);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    for (right, wrong) in [("    command:", "    comand:"), ("service_healthy", "healthy")] {
        assert!(!check(&file.replace(right, wrong)).status.success(), "{wrong} is not noticed");
    }
}

#[test]
fn the_kustomize_base_builds_to_objects_of_the_official_schemas() {
    let test = "the_kustomize_base_builds_to_objects_of_the_official_schemas";
    let Some(python) = python(test) else { return };
    let Some((built, objects)) = kustomized(test, &python) else { return };
    let check = |yaml: &str| {
        let program = "import kubernetes_validate as k, sys, yaml\n\
                       for found in yaml.safe_load_all(sys.stdin): k.validate(found, k.latest_version(), strict=True)";
        fed(Command::new(&python).args(["-c", program]), yaml)
    };
    text(&check(&built));
    for (right, wrong) in [("readinessProbe:", "readynessProbe:"), ("replicas: 1", "replicas: one")] {
        assert!(built.contains(right) && !check(&built.replace(right, wrong)).status.success(), "{wrong}");
    }
    // What schemas do not know: that names lead somewhere.
    let named = |kind: &str| of_kind(&objects, kind)["metadata"]["name"].as_str().expect("a name");
    for kind in ["StatefulSet", "Deployment"] {
        let object = of_kind(&objects, kind);
        let template = &object["spec"]["template"];
        assert_eq!(object["spec"]["selector"]["matchLabels"], template["metadata"]["labels"], "{kind}");
        let mut volumes = BTreeSet::new();
        for volume in template["spec"]["volumes"].as_array().expect("volumes") {
            volumes.insert(volume["name"].as_str().expect("a name"));
            if volume["emptyDir"].is_object() {
                assert_eq!((kind, &volume["name"]), ("Deployment", &json!("cache")), "state is for longer than a pod");
            } else if let Some(name) = volume["configMap"]["name"].as_str() {
                assert!(name == named("ConfigMap") && name != "deepfm", "{name} has no digest of the content");
            } else {
                assert_eq!(volume["persistentVolumeClaim"]["claimName"], named("PersistentVolumeClaim"));
            }
        }
        let claims = object["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten();
        volumes.extend(claims.map(|claim| claim["metadata"]["name"].as_str().expect("a name")));
        let mounts = container(object)["volumeMounts"].as_array().expect("mounts").iter();
        assert_eq!(mounts.map(|mount| mount["name"].as_str().expect("a name")).collect::<BTreeSet<_>>(), volumes);
        let service = objects
            .iter()
            .find(|other| other["kind"] == "Service" && other["spec"]["selector"] == template["metadata"]["labels"]);
        let ports = service.expect("a service finds its pods")["spec"]["ports"].as_array().expect("ports");
        let port = &container(object)["ports"][0];
        assert_eq!((&ports[0]["targetPort"], &ports[0]["port"]), (&port["name"], &port["containerPort"]), "{kind}");
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            if let Some(probe) = container(object).get(probe) {
                assert_eq!(probe["httpGet"]["port"], port["name"], "{kind}");
            }
        }
    }
}

/// What the binary is linked to, and the packages of the image's Debian that have it.
const LINKED: [(&str, &str); 6] = [
    ("libz.so.1", "zlib1g"),
    ("libssl.so.3", "libssl3"),
    ("libcrypto.so.3", "libssl3"),
    ("libgcc_s.so.1", "libgcc-s1"),
    ("libm.so.6", "libc6"),
    ("libc.so.6", "libc6"),
];

/// What every Debian has.
const BASE: [&str; 2] = ["libc6", "libgcc-s1"];

#[test]
fn the_image_has_what_the_binary_is_linked_to_and_little_else() {
    let test = "the_image_has_what_the_binary_is_linked_to_and_little_else";
    let Some(python) = python(test) else { return };
    let ldd = Command::new("ldd").arg(env!("CARGO_BIN_EXE_deepfm")).output().expect("ldd comes with every libc");
    let listed = text(&ldd);
    let libraries = listed.lines().map(str::trim).filter(|line| line.contains(" => ") || line.contains("not found"));
    let libraries: BTreeSet<&str> = libraries.filter_map(|line| line.split_whitespace().next()).collect();
    let known: BTreeMap<&str, &str> = LINKED.into_iter().collect();
    assert_eq!(libraries, known.keys().copied().collect(), "{listed}");

    let stages = stages(&python);
    let [build, image] = stages.as_slice() else { panic!("{} stages", stages.len()) };
    let wanted = known.values().copied().filter(|package| !BASE.contains(package)).chain(["ca-certificates"]);
    assert_eq!(installed(image), wanted.map(str::to_owned).collect());
    // Where this is the image's Debian, it knows which package has a library.
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if release.lines().any(|line| line == "VERSION_CODENAME=bookworm") {
        for (library, package) in LINKED {
            let asked = Command::new("dpkg").args(["-S", &format!("*/{library}")]).output().expect("Debian has dpkg");
            let found = text(&asked);
            assert!(found.lines().any(|line| line.starts_with(&format!("{package}:"))), "{library}: {found}");
        }
    }

    let dev = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("dev"));
    let (_, tools) = dev.split_once("need_build_tools() {").expect("it is there");
    let (tools, _) = tools.split_once("\n}").expect("it ends");
    let needed = tools.lines().filter_map(|line| Some(line.rsplit_once("need ")?.1)).flat_map(str::split_whitespace);
    assert_eq!(installed(build), needed.map(str::to_owned).collect());
}

#[test]
fn the_image_runs_the_binary_itself_as_nobody_in_particular() {
    let test = "the_image_runs_the_binary_itself_as_nobody_in_particular";
    let Some(python) = python(test) else { return };
    let stages = stages(&python);
    let [build, image] = stages.as_slice() else { panic!("{} stages", stages.len()) };
    let user = &last(image, "USER").value[0];
    let numbers: Vec<u32> = user.split(':').map(|part| part.parse().expect("a number")).collect();
    assert!(numbers.len() == 2 && numbers.iter().all(|number| *number > 0), "{user}");
    for cmd in ["ENTRYPOINT", "CMD", "VOLUME"] {
        assert!(last(image, cmd).is_exec, "{cmd} goes through a shell");
    }
    assert_eq!(last(image, "ENTRYPOINT").value, [INSTALLED]);
    assert_eq!(last(image, "COPY").value, ["/out/deepfm", INSTALLED]);

    let toolchain = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("rust-toolchain.toml"));
    let toolchain: toml::Table = toolchain.parse().expect("it is TOML");
    let channel = toolchain["toolchain"]["channel"].as_str().expect("a text");
    assert_eq!(build[0].value[0], format!("rust:{channel}-slim-bookworm"));
    assert_eq!(image[0].value[0], "debian:bookworm-slim");
}

#[test]
fn what_the_image_is_built_from_is_enough_for_cargo() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ignored = read(&root.join(".dockerignore"));
    let rules: Vec<&str> = ignored.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(rules[0], "*");
    let place = tempfile::tempdir().expect("a directory of our own");
    for rule in &rules[1..] {
        let name = rule.strip_prefix('!').expect("nothing but what is let in");
        let (from, to) = (root.join(name), place.path().join(name));
        if from.is_dir() {
            crate::support::copy_directory(&from, &to);
        } else {
            fs::copy(&from, &to).expect("it is there");
        }
    }
    // Cargo reads the manifests of the workspace and finds the sources of what is built.
    let mut tree = Command::new(env!("CARGO"));
    let output = tree
        .args(["tree", "--locked", "--offline", "--depth", "0", "--package", env!("CARGO_PKG_NAME")])
        .current_dir(place.path())
        .output();
    assert!(text(&output.expect("cargo is there")).starts_with(env!("CARGO_PKG_NAME")));
    assert!(place.path().join("src/main.rs").is_file());
}

/// Where a worker or server has its mounts, and whether it may write there.
type Mounts = BTreeMap<String, bool>;

fn compose_mounts(service: &Value) -> Mounts {
    let mounts = words(&service["volumes"]);
    let mounts = mounts.iter().map(|mount| {
        let parts: Vec<&str> = mount.split(':').collect();
        (parts[1].to_owned(), parts.get(2) != Some(&"ro"))
    });
    mounts.collect()
}

fn pod_mounts(object: &Value) -> Mounts {
    let mounts = container(object)["volumeMounts"].as_array().expect("mounts").iter();
    mounts.map(|mount| (mount["mountPath"].as_str().expect("a path").to_owned(), mount["readOnly"] != true)).collect()
}

/// That what is written lies on a volume, and what is read is there.
fn assert_mounted(mounts: &Mounts, config: &Value, home: &str, of: &str, is_writer: bool) {
    let is_on = |path: &str| {
        let over = mounts.iter().filter(|(mount, _)| format!("{home}/{path}/").starts_with(&format!("{mount}/")));
        over.map(|(_, is_writable)| *is_writable).next()
    };
    let directory = |section: &str| config[section]["dir"].as_str().expect("a path").to_owned();
    assert_eq!(is_on(&directory("versions")), Some(is_writer), "{of}: {mounts:?}");
    for section in ["state", "exports"] {
        assert_eq!(is_on(&directory(section)), is_writer.then_some(true), "{of}: {section}: {mounts:?}");
    }
}

/// The directory that the configuration's relative directories start at, and the user, of the image.
fn home_and_user(python: &Path) -> (String, String) {
    let stages = stages(python);
    let image = stages.last().expect("a stage");
    let value = |cmd| last(image, cmd).value[0].clone();
    (value("WORKDIR"), value("USER"))
}

#[test]
fn the_compose_file_agrees_with_the_image_the_simulator_and_itself() {
    let test = "the_compose_file_agrees_with_the_image_the_simulator_and_itself";
    let Some(python) = python(test) else { return };
    let (home, _) = home_and_user(&python);
    let file = compose(&python);
    let services = &file["services"];
    let worker = shown(&deploy("deepfm.toml"), &environment(&services["worker"]));
    assert_mounted(&compose_mounts(&services["worker"]), &worker, &home, "the worker", true);
    let mut published = BTreeSet::new();
    for name in ["server-1", "server-2"] {
        assert_mounted(&compose_mounts(&services[name]), &worker, &home, name, false);
        let port = words(&services[name]["ports"]).remove(0);
        assert!(port.ends_with(":8000") && port.starts_with("127.0.0.1:") && published.insert(port), "{name}");
        assert!(words(&services[name]["command"]).contains(&"0.0.0.0:8000".to_owned()), "{name}");
    }
    assert_eq!(words(&services["worker"]["ports"]), ["127.0.0.1:9464:9464"]);
    assert_eq!(worker["admin"]["listen"], "0.0.0.0:9464");
    let broker = environment(&services["kafka"]);
    let advertised = broker["KAFKA_ADVERTISED_LISTENERS"].strip_prefix("PLAINTEXT://").expect("one listener");
    assert_eq!(worker["kafka"]["brokers"], advertised);
    assert!(services.get(advertised.split_once(':').expect("host and port").0).is_some(), "{advertised}");
    let fields = worker["fields"].as_array().expect("fields").iter().map(|field| field["name"].clone());
    let simulated = simulate::fields().into_iter().map(|field| json!(field.name));
    assert_eq!(fields.collect::<Vec<_>>(), simulated.collect::<Vec<_>>());
    let pom = read(&deploy("kafka/pom.xml"));
    let (_, version) = pom.split_once("<kafka.version>").expect("it has a version");
    let (version, _) = version.split_once('<').expect("it ends");
    assert_eq!(services["kafka"]["image"], format!("apache/kafka:{version}"));
}

#[test]
fn the_kustomize_base_agrees_with_the_image_and_with_the_standard_configuration() {
    let test = "the_kustomize_base_agrees_with_the_image_and_with_the_standard_configuration";
    let Some(python) = python(test) else { return };
    let Some((_, objects)) = kustomized(test, &python) else { return };
    let (home, user) = home_and_user(&python);
    let none = BTreeMap::new();
    let (standard, mut pod) = (shown(&deploy("deepfm.toml"), &none), shown(&deploy("k8s/deepfm.toml"), &none));
    let (worker, server) = (of_kind(&objects, "StatefulSet"), of_kind(&objects, "Deployment"));
    assert_mounted(&pod_mounts(worker), &pod, &home, "the worker", true);
    assert_mounted(&pod_mounts(server), &pod, &home, "a server", false);
    let port = |object| format!("0.0.0.0:{}", container(object)["ports"][0]["containerPort"]);
    assert_eq!(pod["admin"]["listen"], port(worker));
    assert!(words(&container(server)["args"]).contains(&port(server)));
    for object in [worker, server] {
        let ids = &object["spec"]["template"]["spec"]["securityContext"];
        assert_eq!(format!("{}:{}", ids["runAsUser"], ids["runAsGroup"]), user);
        assert_eq!(ids["runAsNonRoot"], true);
    }
    let ids = &worker["spec"]["template"]["spec"]["securityContext"];
    assert_eq!(ids["fsGroup"], ids["runAsGroup"]);
    // The short configuration is the standard one but for what is named here.
    for (section, key) in [("admin", "listen"), ("kafka", "brokers"), ("state", "dir")] {
        assert_ne!(pod[section][key], standard[section][key], "{section}.{key}");
        pod[section][key] = standard[section][key].clone();
    }
    assert_eq!(pod, standard);
}

#[test]
fn the_units_have_one_home_which_the_worker_alone_may_write_to() {
    let test = "the_units_have_one_home_which_the_worker_alone_may_write_to";
    let Some(python) = python(test) else { return };
    let (home, _) = home_and_user(&python);
    let [worker, server] = UNITS.map(|name| read(&deploy("systemd").join(name)));
    assert_eq!(format!("/var/lib/{}", setting(&worker, "StateDirectory")), home);
    assert_eq!((setting(&worker, "WorkingDirectory"), setting(&server, "WorkingDirectory")), (&*home, &*home));
    assert!(settings(&server, "StateDirectory").is_empty());
    assert_eq!(setting(&server, "Group"), setting(&worker, "Group"));
    assert_ne!(setting(&server, "User"), setting(&worker, "User"));
}

/// The settings that a file has as an example: its comments that have no space after the sign.
fn examples(text: &str) -> String {
    let lines = text.lines().filter_map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_server_may_write_to_the_cache_of_the_examples_and_no_two_have_the_same() {
    let test = "a_server_may_write_to_the_cache_of_the_examples_and_no_two_have_the_same";
    let Some(python) = python(test) else { return };
    let Some((_, objects)) = kustomized(test, &python) else { return };
    // The unit: %C is where a system's CacheDirectory= lies.
    let unit = read(&deploy("systemd").join(UNITS[1]));
    let directory = setting(&unit, "CacheDirectory");
    assert!(directory.contains("%i"), "{directory} is that of all instances");
    let example = examples(&unit);
    let (key, cache) = setting(&example, "Environment").split_once('=').expect("key and value");
    assert_eq!(cache, format!("%C/{directory}"));
    let set = BTreeMap::from([(key.to_owned(), cache.to_owned())]);
    assert_eq!(shown(&deploy("deepfm.toml"), &set)["serve"]["cache"], cache);
    // The pods: their configuration with the example is one, and its cache lies on a volume of the pod itself.
    let text = read(&deploy("k8s/deepfm.toml"));
    let place = tempfile::tempdir().expect("a directory of our own");
    let file = place.path().join("deepfm.toml");
    fs::write(&file, format!("{text}{}", examples(&text))).expect("the disk takes it");
    let pod = shown(&file, &BTreeMap::new());
    let cache = pod["serve"]["cache"].as_str().expect("a path");
    assert!(pod["storage"]["uri"] != "" && !cache.is_empty(), "{pod}");
    let server = of_kind(&objects, "Deployment");
    assert_eq!(pod_mounts(server).get(cache), Some(&true), "it may not write there");
    let mounts = container(server)["volumeMounts"].as_array().expect("mounts");
    let mount = mounts.iter().find(|mount| mount["mountPath"] == cache).expect("it is one");
    let volumes = server["spec"]["template"]["spec"]["volumes"].as_array().expect("volumes");
    let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).expect("it is there");
    assert!(volume["emptyDir"].is_object(), "{volume}");
}

/// A command of a service of the compose file, without its container.
fn rehearsed(service: &Value, changes: &BTreeMap<String, String>, place: &Path, log: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_deepfm"));
    let log = fs::File::create(place.join(log)).expect("the disk takes it");
    let arguments = words(&service["command"]).into_iter().map(|word| word.replace("0.0.0.0:8000", "127.0.0.1:0"));
    command
        .args(arguments)
        .envs(environment(service))
        .envs(changes)
        .current_dir(place)
        .stdin(Stdio::null())
        .stderr(log);
    command
}

#[test]
fn the_services_of_the_compose_file_go_round_without_their_containers() {
    let test = "the_services_of_the_compose_file_go_round_without_their_containers";
    let Some(python) = python(test) else { return };
    let Some(broker) = broker::real(test) else { return };
    let file = compose(&python);
    let (services, kafka) = (&file["services"], broker.kafka("compose"));
    let place = tempfile::tempdir().expect("a directory of our own");
    // What containers keep apart; and times short enough for a test.
    let changes = BTreeMap::from(
        [
            ("DEEPFM_CONFIG", deploy("deepfm.toml").display().to_string()),
            ("DEEPFM__KAFKA__BROKERS", kafka.brokers),
            ("DEEPFM__KAFKA__IMPRESSIONS_TOPIC", kafka.impressions_topic),
            ("DEEPFM__KAFKA__CLICKS_TOPIC", kafka.clicks_topic),
            ("DEEPFM__KAFKA__VERSIONS_TOPIC", kafka.versions_topic.clone()),
            ("DEEPFM__KAFKA__DEAD_LETTER_TOPIC", kafka.dead_letter_topic),
            ("DEEPFM__KAFKA__ACKNOWLEDGEMENTS_TOPIC", kafka.acknowledgements_topic),
            ("DEEPFM__MODEL__NAME", kafka.versions_topic),
            ("DEEPFM__ADMIN__LISTEN", "127.0.0.1:0".to_owned()),
            ("DEEPFM__JOIN__ATTRIBUTION_WINDOW_SECONDS", "2".to_owned()),
            ("DEEPFM__VERSIONS__INTERVAL_SECONDS", "2".to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    );
    let command = |name: &str| rehearsed(&services[name], &changes, place.path(), name);
    let applied = command("topics").output().expect("the binary starts");
    assert!(text(&applied).contains("created"), "{applied:?}");

    let servers = ["server-1", "server-2"].map(|name| {
        let process = Running::spawn(&mut command(name));
        (name, process, address_in(&place.path().join(name)))
    });
    let is_healthy = |name: &str, port: u16| {
        let check = words(&services[name]["healthcheck"]["test"]);
        assert_eq!(check[0], "CMD", "{name}");
        let script = check[3].replace("127.0.0.1/8000", &format!("127.0.0.1/{port}"));
        Command::new(&check[1]).args([&check[2], &script]).status().expect("bash is there").success()
    };
    for (name, _, address) in &servers {
        assert!(!is_healthy(name, address.port()), "{name} is healthy without a version");
    }
    let worker = Running::spawn(&mut command("worker"));
    let simulator = Running::spawn(&mut command("simulator"));
    for (name, process, address) in servers {
        let mut client = Client::connect(address);
        wait_for("a version that is live", || (client.get("/v2/health/ready").status == 200).then_some(()));
        assert!(is_healthy(name, address.port()), "{name}");
        let ranked = client.post("/v1/rank", r#"{"context": {"user": "u1"}, "candidates": [{"item": "i1"}]}"#).json();
        assert!(ranked["scores"][0].as_f64().is_some_and(|score| score > 0.0 && score < 1.0), "{ranked}");
        drop(client);
        assert_eq!(process.terminate().code, Some(0), "{name}");
    }
    drop(simulator);
    assert_eq!(worker.terminate().code, Some(0));
    for directory in ["state", "versions", "exports"] {
        let written = place.path().join(directory).is_dir();
        assert!(written || directory == "exports", "{directory} is not where the volume is mounted");
    }
}
