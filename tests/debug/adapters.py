"""The debug adapters, each started like its VS Code extension starts it, with the attributes that the extension adds."""
import json, os, secrets, shutil, socket, subprocess


class LldbDap:
    name = kind = "lldb-dap"
    path = next(filter(None, map(shutil.which, [os.environ.get("LLDB_DAP", ""), "lldb-dap-19", "lldb-dap"])), None)

    def start(self, configuration, folder):
        """The adapter's process, the streams to and from it, its log, and a function that ends the connection."""
        command = [configuration.get("debugAdapterExecutable", self.path), *configuration.get("debugAdapterArgs", [])]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder)
        return process, process.stdin, process.stdout, [process.stderr], process.stdin.close

    def arguments(self, configuration, _folder):
        return configuration

    def lldb(self):
        return self.path.replace("lldb-dap", "lldb")


class CodeLldb:
    name, kind = "codelldb", "lldb"
    path = os.environ.get("CODELLDB")
    # Its default settings.
    settings = {"displayFormat": "auto", "showDisassembly": "auto", "dereferencePointers": True, "evaluationTimeout": 5,
                "suppressMissingSourceFiles": True, "consoleMode": "commands", "sourceLanguages": None, "scriptConfig": {},
                "evaluateForHovers": True, "commandCompletions": True}

    def start(self, configuration, folder):
        settings = {"evaluateForHovers": True, "commandCompletions": True}
        if "sourceLanguages" in configuration:
            settings["sourceLanguages"] = configuration["sourceLanguages"]
        token = secrets.token_hex(16)
        env = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONPATH", "CODELLDB_STARTUP")}
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(120)
            command = [self.path, "--connect", str(server.getsockname()[1]), "--auth-token", token,
                       "--settings", json.dumps(settings)]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                       cwd=folder, env=env)
            connection, _ = server.accept()
        connection.settimeout(None)
        reader = connection.makefile("rb")
        assert reader.readline().strip().decode() == f"Auth-Token: {token}"
        hang_up = lambda: connection.shutdown(socket.SHUT_RDWR)
        return process, connection.makefile("wb"), reader, [process.stdout, process.stderr], hang_up

    def arguments(self, configuration, folder):
        kept = {key: value for key, value in configuration.items() if key != "sourceLanguages"}
        return {**kept, "relativePathBase": folder, "_adapterSettings": self.settings}

    def lldb(self):
        return os.path.join(os.path.dirname(os.path.dirname(self.path)), "lldb/bin/lldb")


def chosen():
    """The adapter that DDP_TEST_ADAPTER names."""
    adapters = {adapter.name: adapter for adapter in (LldbDap(), CodeLldb())}
    adapter = adapters[os.environ.get("DDP_TEST_ADAPTER", "lldb-dap")]
    assert adapter.path, f"{adapter.name} is not here: LLDB_DAP or CODELLDB names it"
    return adapter
