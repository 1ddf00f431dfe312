"""Generation on a vLLM server that gets the weights of every step: TRL's server mode, with our own turns.

TRL's trainer owns the sending: its main process joins the server's NCCL group and streams all tensors, an adapter
merged into them. Asking is ours: every process asks over HTTP for the next turn of its own episodes, token in, token
out. On GPUs of its own, and before the training:

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --weight-transfer-config '{"backend": "nccl"}'

Written against trl 1.14.2 and vllm 0.30.0. Asking ran against a stand-in server on a CPU; vLLM and NCCL never ran.
"""

from rezero.gpu import STOPS, WholeGeneration, distance


class Server:
    """The server as one process sees it: `start` is a policy's `backend`.

    Raises:
        ImportError: vLLM is not installed (its NCCL code sends the weights). ConnectionError: no server answers.
    """

    def __init__(self, url: str, trainer, policy, prompt: list[dict]):
        from trl.generation.vllm_client import VLLMClient

        self.client = VLLMClient(url, connection_timeout=240)
        self.trainer, self.end_of_turn, self.step = trainer, policy.end_of_turn, None
        self.untrained = self.scores([policy.prompt_ids(prompt)])

    def start(self, prompts: list[list[int]], temperature: float, generator=None) -> "ServerGeneration":
        """A generation over `prompts` by the weights as they are now; draws are vLLM's, `generator` is not used."""
        self.send_weights()
        return ServerGeneration(self, prompts, temperature)

    def send_weights(self) -> None:
        """Once a step, in all processes; TRL does it before a rollout, but neither before dev nor with a barrier."""
        step, trainer = self.trainer.state.global_step, self.trainer
        if step == self.step:
            return
        if step != trainer._last_loaded_step:
            trainer.vllm_generation.sync_weights()
            trainer._last_loaded_step = step
        trainer.accelerator.wait_for_everyone()
        self.step = step

    def scores(self, prompts: list[list[int]]) -> list[float]:
        """Log-probability of every token of `prompts` but the first ones."""
        scored = self.client.get_sequence_logprobs(prompts, [1] * len(prompts), top_logprobs=1)["actual_logprobs"]
        return [value for sequence in scored for (value,) in sequence]


class ServerGeneration(WholeGeneration):
    """`policy.Generation`'s interface: the server gets all ids of an episode every turn, and caches what it knows."""

    def __init__(self, server: Server, prompts: list[list[int]], temperature: float):
        super().__init__(prompts)
        self.server, self.temperature = server, temperature

    def _turns(self, max_new_tokens: int) -> list[list[int]]:
        options = dict(
            stop=STOPS,
            include_stop_str_in_output=True,
            stop_token_ids=[self.server.end_of_turn],
            skip_special_tokens=False,
        )
        answer = self.server.client.generate(
            self.ids,
            temperature=self.temperature,
            max_tokens=max_new_tokens,
            logprobs=None,
            generation_kwargs=options,
        )
        return answer["completion_ids"]

    def follows_adapter(self) -> bool:
        """Whether the prompts score otherwise than before training, by more than vLLM's noise."""
        now, again = self.server.scores(self.ids), self.server.scores(self.ids)
        return distance(now, self.server.untrained) > distance(now, again)
